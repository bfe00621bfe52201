//! Which images and stages a Dockerfile is about, without asking anybody for them (SPEC D1.48, D3.03).

use indexmap::IndexMap;

use super::args::{self, Globals};
use super::base::base_platform;
use super::contexts::Contexts;
use super::error::FrontendError;
use super::options::FrontendInput;
use super::pipeline::Source;
use super::plan::{Origin, Outlook, Plan};
use super::words::Lex;
use crate::dockerfile::Stages;
use crate::oci::{Platform, Reference};

/// The images that stages build upon, and that are copied or mounted from, each with the platform that it is wanted for; each once.
///
/// # Errors
/// If the file cannot be read as a Dockerfile, or a name in it comes to nothing.
pub fn bases(
    filename: &str,
    source: &[u8],
    build_args: &IndexMap<String, String>,
    platform: &Platform,
) -> Result<Vec<(Reference, Platform)>, FrontendError> {
    planned(filename, source, build_args, platform, None, |plan, outlook| {
        let mut found = Vec::new();
        for (id, stage) in plan.stages.iter().enumerate() {
            let Origin::Image(reference) = &stage.origin else { continue };
            let wanted = (reference.clone(), base_platform(plan, id, outlook));
            if !found.contains(&wanted) {
                found.push(wanted);
            }
        }
        found
    })
}

/// A stage that a target needs, or the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageOutline {
    /// Which one of the file.
    pub index: usize,
    /// What it is called.
    pub name: Option<String>,
    /// What stands behind its FROM, expanded.
    pub base: String,
    /// The stage that it builds upon.
    pub below: Option<usize>,
    /// It is what is built.
    pub is_target: bool,
    /// The last line of its FROM, counted from one.
    pub from: u32,
    /// The first line of the FROM that ends it.
    pub next: Option<u32>,
}

/// The stages of the file that a target needs, in order; the target is the last one if none is named.
///
/// # Errors
/// As [`bases`], and if there is no such target.
pub fn stages(
    filename: &str,
    source: &[u8],
    build_args: &IndexMap<String, String>,
    platform: &Platform,
    target: Option<&str>,
) -> Result<Vec<StageOutline>, FrontendError> {
    planned(filename, source, build_args, platform, target, |plan, _| {
        let mut needed = plan.needed_by_target();
        needed.retain(|id| !plan.is_external(*id));
        needed.sort_unstable();
        let outline = |id: usize| {
            let stage = &plan.stages[id];
            let below = if let Origin::Stage(below) = stage.origin { Some(below) } else { None };
            let (name, base) = (stage.name.clone(), stage.base.clone());
            let next = plan.stages.get(id + 1).filter(|_| !plan.is_external(id + 1)).map(|next| next.place.lines.0);
            StageOutline { index: id, name, base, below, is_target: id == plan.target, from: stage.place.lines.1, next }
        };
        needed.into_iter().map(outline).collect()
    })
}

/// Reads a file as far as its stages; no contexts have names.
fn planned<T>(
    filename: &str,
    source: &[u8],
    build_args: &IndexMap<String, String>,
    platform: &Platform,
    target: Option<&str>,
    tell: impl FnOnce(&Plan, &Outlook<'_>) -> T,
) -> Result<T, FrontendError> {
    let input = FrontendInput { filename, source, ..FrontendInput::default() };
    let read = Source::read(&input)?;
    let lex = Lex::new(read.file.directives.escape_char());
    let stages = Stages::new(&read.file);
    let target = target.filter(|name| !name.is_empty());
    let automatic = args::automatic(platform, &Platform::host(), target.unwrap_or_default(), build_args);
    let globals = Globals::new(automatic, stages.global_args(), build_args, lex)?;
    let named = std::collections::BTreeMap::new();
    let contexts = Contexts::new(&named);
    let outlook = Outlook { globals: &globals, lex, contexts: &contexts, platform, first_base: None };
    let plan = Plan::new(&read.file.instructions, target, &outlook, &mut read.checks()?)?;
    Ok(tell(&plan, &outlook))
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC D1.48
    #[test]
    fn d1_48_images_of_a_file() {
        let file = b"ARG V=1\nFROM app:$V AS a\nFROM scratch\nCOPY --from=tools:2 / /\nFROM a\nFROM --platform=linux/arm64 app:$V\n";
        let names = |args: &[(&str, &str)]| {
            let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let found = bases("Dockerfile", file, &args, &Platform::new("linux", "amd64", "")).expect("readable");
            found.into_iter().map(|(name, platform)| format!("{} {platform}", name.familiar())).collect::<Vec<_>>()
        };
        let mut one = names(&[]);
        one.sort();
        assert_eq!(one, ["app:1 linux/amd64", "app:1 linux/arm64", "tools:2 linux/amd64"]);
        assert!(names(&[("V", "3")]).contains(&"app:3 linux/amd64".to_owned()));
        let all = stages("Dockerfile", file, &IndexMap::new(), &Platform::host(), Some("2")).expect("readable");
        let told: Vec<_> = all.iter().map(|stage| (stage.index, stage.below, stage.is_target)).collect();
        assert_eq!((told, all[0].base.as_str()), (vec![(0, None, false), (2, Some(0), true)], "app:1"));
        assert_eq!((all[0].from, all[0].next, all[1].from, all[1].next), (2, Some(3), 5, Some(6)));
        assert!(stages("Dockerfile", file, &IndexMap::new(), &Platform::host(), Some("b")).is_err());
        assert!(bases("Dockerfile", b"FRUM x\n", &IndexMap::new(), &Platform::host()).is_err());
    }
}
