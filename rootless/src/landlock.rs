//! A Landlock domain of its own for every step.
//!
//! Where the step has namespaces the domain restricts no file access: what it is for is the ptrace check. (Where it has
//! none, [`confine`] also keeps it inside its root.) A process in one domain can neither trace a
//! process outside of it nor follow its `/proc/<pid>/{environ,root,cwd,fd}`, whatever their user ids, so two steps in
//! one user namespace with a shared outer `/proc` cannot read each other's secrets. Where the kernel can, signals and
//! abstract sockets are kept inside as well.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};

/// The kernel's Landlock ABI version; 0 without Landlock.
pub(crate) fn abi() -> u32 {
    crate::sys::landlock_abi()
}

/// Puts this thread in a new domain. Needs CAP_SYS_ADMIN, because `no_new_privs` must stay off.
///
/// Returns whether there is a domain now. To be called after the last mount: a domain that handles file access (before
/// ABI 6 one must handle something) may not change mounts.
pub(crate) fn enter_domain(may_mount: bool) -> Result<bool, RulesetError> {
    let base = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let domain = match abi() {
        0 | 1 => return Ok(false),
        // Refer is the one right that, handled and granted on the whole tree, changes nothing.
        2..=5 if may_mount => return Ok(false),
        2..=5 => match PathFd::new("/") {
            Ok(root) => {
                base().handle_access(AccessFs::Refer)?.create()?.add_rule(PathBeneath::new(root, AccessFs::Refer))?
            }
            Err(_) => return Ok(false),
        },
        _ => base().scope(Scope::from_all(ABI::V6))?.create()?,
    };
    domain.no_new_privs(false).restrict_self()?;
    Ok(true)
}

/// Keeps this thread from opening anything outside of `root`, and from tracing or (where the kernel can) signalling any
/// process outside of the domain. Sets `no_new_privs`. Returns whether there is Landlock.
///
/// What Landlock does not cover (`stat`, `chmod`, `chown`, times, extended attributes) needs a path that leads outside,
/// and the root switch that comes next leaves none.
pub(crate) fn confine(root: BorrowedFd<'_>) -> Result<bool, RulesetError> {
    let version = match abi() {
        0 => return Ok(false),
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        _ => ABI::V6,
    };
    let access = AccessFs::from_all(version);
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(access)?;
    if version >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(ABI::V6))?;
    }
    ruleset.create()?.add_rule(PathBeneath::new(root, access))?.restrict_self()?;
    Ok(true)
}
