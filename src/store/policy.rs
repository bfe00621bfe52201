//! What the automatic collection at the end of a build may keep (SPEC C9.04, C9.05).

use std::time::Duration;

use super::{Filter, PruneOptions, PruneReport, Store, StoreError, meta};

const GB: u64 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);
/// The cap that was decided on first use.
const CAP: &str = "gc.max_used";

/// An amount of space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// So many bytes.
    Bytes(u64),
    /// Hundredths of the file system that the store is on.
    Percent(u64),
}

/// Limits; what is not given is as usual, or none in a rule of one's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcCaps {
    /// The store stays no larger.
    pub max_used: Option<Space>,
    /// The store is never made smaller.
    pub reserved: Option<Space>,
    /// The disk keeps so much free.
    pub min_free: Option<Space>,
}

/// One rule.
#[derive(Debug, Clone, Default)]
pub struct GcRule {
    /// Internal records too.
    pub all: bool,
    /// Only what fulfils all of at least one of these lists; empty for everything.
    pub any: Vec<Vec<Filter>>,
    /// Only what was not used for so long.
    pub keep_duration: Option<Duration>,
    /// When to stop.
    pub caps: GcCaps,
}

/// Which rules hold.
#[derive(Debug, Clone)]
pub enum GcPolicy {
    /// Nothing is collected.
    Off,
    /// The usual rules, under these caps.
    Usual(GcCaps),
    /// These instead, one after the other.
    Rules(Vec<GcRule>),
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self::Usual(GcCaps::default())
    }
}

impl Store {
    /// The automatic collection, for the end of a build.
    ///
    /// # Errors
    /// As [`Store::prune`].
    pub fn gc(&self, policy: &GcPolicy) -> Result<PruneReport, StoreError> {
        let rules = self.gc_rules(policy)?;
        if rules.is_empty() {
            return Ok(PruneReport::default());
        }
        let used: u64 = self.inventory()?.iter().map(|item| item.record.size).sum();
        let mut report = PruneReport::default();
        for rule in rules {
            // Far from the caps nothing old is worth deleting: a cache that fits is a good cache.
            if self.target(&rule, used.saturating_sub(report.bytes))?.is_none() {
                continue;
            }
            let more = self.prune(&rule)?;
            report.bytes += more.bytes;
            report.removed.extend(more.removed);
        }
        Ok(report)
    }

    /// The rules of the automatic collection, in order, with what they come to on this disk.
    ///
    /// # Errors
    /// If the metadata or the file system's state cannot be read.
    pub fn gc_rules(&self, policy: &GcPolicy) -> Result<Vec<PruneOptions>, StoreError> {
        match policy {
            GcPolicy::Off => Ok(Vec::new()),
            GcPolicy::Usual(caps) => self.usual_rules(*caps),
            GcPolicy::Rules(rules) => rules.iter().map(|rule| self.rule(rule)).collect(),
        }
    }

    fn usual_rules(&self, caps: GcCaps) -> Result<Vec<PruneOptions>, StoreError> {
        let max_used = match caps.max_used {
            Some(space) => self.bytes(space)?,
            None => self.usual_cap()?,
        };
        let reserved = caps.reserved.map_or(Ok((max_used / 10).min(10 * GB)), |space| self.bytes(space))?;
        let min_free = caps.min_free.map(|space| self.bytes(space)).transpose()?;
        let capped = |rule: PruneOptions| PruneOptions {
            max_used_space: Some(max_used),
            reserved_space: Some(reserved),
            min_free_space: min_free,
            ..rule
        };
        let short_lived = Filter::parse("type~=^(source\\.local|source\\.git\\.checkout|exec\\.cachemount)$")?;
        let unused = |hours: u32| PruneOptions { keep_duration: Some(hours * HOUR), ..PruneOptions::default() };
        Ok([
            PruneOptions { filters: vec![short_lived], ..unused(48) },
            unused(60 * 24),
            PruneOptions::default(),
            PruneOptions { all: true, ..PruneOptions::default() },
        ]
        .map(capped)
        .to_vec())
    }

    fn rule(&self, rule: &GcRule) -> Result<PruneOptions, StoreError> {
        let bytes = |space: Option<Space>| space.map(|space| self.bytes(space)).transpose();
        Ok(PruneOptions {
            all: rule.all,
            filters: Vec::new(),
            any: rule.any.clone(),
            keep_duration: rule.keep_duration,
            max_used_space: bytes(rule.caps.max_used)?,
            min_free_space: bytes(rule.caps.min_free)?,
            reserved_space: bytes(rule.caps.reserved)?,
        })
    }

    fn bytes(&self, space: Space) -> Result<u64, StoreError> {
        Ok(match space {
            Space::Bytes(bytes) => bytes,
            Space::Percent(percent) => {
                let stat = rustix::fs::statvfs(self.root()).map_err(StoreError::errno("examine", self.root()))?;
                let size = stat.f_blocks.saturating_mul(stat.f_frsize);
                // As BuildKit rounds.
                ((size / 100).saturating_mul(percent) / (1 << 30) + 1).saturating_mul(GB)
            }
        })
    }

    /// The usual cap: 80 % of the space available when first asked, at most 100 GB.
    ///
    /// # Errors
    /// If the metadata or the file system's state cannot be read.
    pub fn usual_cap(&self) -> Result<u64, StoreError> {
        let saved = self.inner.meta.read("read the cap", |c| meta::setting(c, CAP))?;
        if let Some(saved) = saved {
            return Ok(u64::try_from(saved).unwrap_or(0));
        }
        let cap = (self.available_space()? / 5 * 4).min(100 * GB);
        let kept = i64::try_from(cap).unwrap_or(i64::MAX);
        self.inner.meta.write("keep the cap", |tx| Ok(meta::set_setting(tx, CAP, kept)?))?;
        Ok(cap)
    }
}
