//! Where differences between two builds of the same source are known to come from, and what to do about it.

use std::path::Path;

use serde::Serialize;

use super::layer::FileDifference;

/// A well-known source of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// The files, in words.
    pub files: &'static str,
    /// What writes them, and the remedy.
    pub remedy: &'static str,
}

struct Rule {
    is: fn(&Path, &FileDifference) -> bool,
    cause: Cause,
}

const RULES: &[Rule] = &[
    Rule {
        is: |path, _| path.starts_with("var/log") || path.starts_with("var/cache/ldconfig"),
        cause: Cause {
            files: "/var/log, /var/cache/ldconfig",
            remedy: "package managers write the time of day there: end the RUN with rm -rf /var/log/* /var/cache/ldconfig/aux-cache",
        },
    },
    Rule {
        is: |path, _| path.starts_with("var/lib/apt/lists") || path.starts_with("var/cache/apt"),
        cause: Cause {
            files: "/var/lib/apt/lists, /var/cache/apt",
            remedy: "the archive's lists change by the hour: end the RUN with rm -rf /var/lib/apt/lists/*, or put them on --mount=type=cache",
        },
    },
    Rule {
        is: |path, _| path.extension().is_some_and(|e| e == "pyc"),
        cause: Cause {
            files: "*.pyc",
            remedy: "Python writes the times of the sources into them: set PYTHONDONTWRITEBYTECODE=1, or ARG SOURCE_DATE_EPOCH in the stage, which makes it use hashes",
        },
    },
    Rule {
        is: |path, _| ["etc/shadow", "etc/shadow-"].iter().any(|name| path == Path::new(name)),
        cause: Cause {
            files: "/etc/shadow",
            remedy: "it holds the day of the last change of each password: useradd and its like obey ARG SOURCE_DATE_EPOCH in the stage",
        },
    },
    Rule {
        is: |path, _| ["etc/machine-id", "var/lib/dbus/machine-id"].iter().any(|name| path == Path::new(name)),
        cause: Cause {
            files: "/etc/machine-id",
            remedy: "it is drawn by lot when systemd is installed, and is to be empty in an image: RUN … && : > /etc/machine-id",
        },
    },
    Rule {
        is: |path, _| path.starts_with("etc/ssh") && path.to_string_lossy().contains("_key"),
        cause: Cause {
            files: "/etc/ssh/ssh_host_*_key",
            remedy: "every installation makes new ones, and everybody who has the image has the same: rm /etc/ssh/ssh_host_*_key* in that RUN",
        },
    },
    Rule {
        is: |path, _| path.components().any(|c| c.as_os_str() == ".git"),
        cause: Cause {
            files: ".git",
            remedy: "packs and index depend on times and threads: put .git into .dockerignore, or remove it in the RUN that clones",
        },
    },
    Rule {
        is: |path, _| {
            path.extension().is_some_and(|e| ["gz", "jar", "zip", "whl", "tar", "tgz"].iter().any(|known| e == *known))
        },
        cause: Cause {
            files: "*.gz, *.zip, *.jar, *.tar",
            remedy: "archives hold times of files: gzip -n, zip -X, tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0",
        },
    },
    Rule {
        is: |path, _| ["tmp", "var/tmp", "root/.cache", "root/.npm"].iter().any(|dir| path.starts_with(dir)),
        cause: Cause {
            files: "/tmp, /root/.cache, /root/.npm",
            remedy: "caches do not belong into an image: put them on --mount=type=cache or type=tmpfs, or remove them in that RUN",
        },
    },
    Rule {
        is: |_, difference| difference.aspects.iter().all(|a| a.name == "time") && !difference.aspects.is_empty(),
        cause: Cause {
            files: "times of files",
            remedy: "give SOURCE_DATE_EPOCH and rewrite-timestamp=true to the output of both builds",
        },
    },
];

/// The causes that fit any of the differences, each once.
pub(super) fn of<'a>(differences: impl Iterator<Item = &'a FileDifference>) -> Vec<Cause> {
    let mut found = vec![false; RULES.len()];
    for difference in differences {
        // The first that fits says it.
        if let Some(at) = RULES.iter().position(|rule| (rule.is)(&difference.path, difference)) {
            found[at] = true;
        }
    }
    RULES.iter().zip(found).filter(|(_, found)| *found).map(|(rule, _)| rule.cause).collect()
}

#[cfg(test)]
mod tests {
    use super::super::layer::{Aspect, Change};
    use super::*;

    fn difference(path: &str, aspects: &[&str]) -> FileDifference {
        let aspect = |name: &&str| Aspect { name: (*name).into(), first: "1".into(), second: "2".into() };
        let aspects = aspects.iter().map(aspect).collect();
        FileDifference { path: path.into(), change: Change::Changed, aspects, excerpt: None }
    }

    #[test]
    fn each_cause_is_said_once_and_only_where_it_fits() {
        let found = [
            difference("var/log/dpkg.log", &["content"]),
            difference("var/log/apt/history.log", &["content"]),
            difference("usr/lib/python3/x.pyc", &["content"]),
            difference("usr/bin/tool", &["time"]),
            difference("srv/data", &["content", "time"]),
        ];
        let files: Vec<&str> = of(found.iter()).iter().map(|cause| cause.files).collect();
        assert_eq!(files, ["/var/log, /var/cache/ldconfig", "*.pyc", "times of files"]);
        assert!(of([difference("srv/data", &["content"])].iter()).is_empty());
    }
}
