//! The build checks by name, with their words (SPEC A10.01–A10.23).

/// A build check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Stage names are lower case.
    StageNameCasing,
    /// `AS` is written like `FROM`.
    FromAsCasing,
    /// No blank lines in a continued instruction.
    NoEmptyContinuation,
    /// All keywords in one case.
    ConsistentInstructionCasing,
    /// Stage names are unique.
    DuplicateStageName,
    /// `scratch` and `context` are taken.
    ReservedStageName,
    /// CMD and ENTRYPOINT in exec form.
    JSONArgsRecommended,
    /// A label instead of MAINTAINER.
    MaintainerDeprecated,
    /// FROM uses declared arguments only.
    UndefinedArgInFrom,
    /// The first WORKDIR is absolute.
    WorkdirRelativePath,
    /// Variables have values.
    UndefinedVar,
    /// CMD, ENTRYPOINT, HEALTHCHECK once per stage.
    MultipleInstructionsDisallowed,
    /// `ENV key=value`, not `ENV key value`.
    LegacyKeyValueFormat,
    /// The base image is for the expected platform.
    InvalidBaseImagePlatform,
    /// `--platform=$TARGETPLATFORM` is the default.
    RedundantTargetPlatform,
    /// No secrets in the image config.
    SecretsUsedInArgOrEnv,
    /// Defaults of global arguments give a valid base image.
    InvalidDefaultArgInFrom,
    /// No constant `--platform`.
    FromPlatformFlagConstDisallowed,
    /// No COPY of what `.dockerignore` excludes.
    CopyIgnoredFile,
    /// Comments above ARG and FROM describe them.
    InvalidDefinitionDescription,
    /// Protocols of EXPOSE are lower case.
    ExposeProtoCasing,
    /// EXPOSE has no address and no host port.
    ExposeInvalidFormat,
}

impl Rule {
    /// Every rule, in the order of the reference documentation.
    pub const ALL: [Self; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JSONArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// Its name, which is also what `# check=skip=` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StageNameCasing => "StageNameCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ReservedStageName => "ReservedStageName",
            Self::JSONArgsRecommended => "JSONArgsRecommended",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
            Self::UndefinedVar => "UndefinedVar",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
        }
    }

    /// The rule of a name; case matters (SPEC A1.04).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// Off unless asked for.
    #[must_use]
    pub fn experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    /// One sentence on what it wants.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::StageNameCasing => "Stage names should be lowercase",
            Self::FromAsCasing => "The 'as' keyword should match the case of the 'from' keyword",
            Self::NoEmptyContinuation => "Empty continuation lines will become errors in a future release",
            Self::ConsistentInstructionCasing => {
                "All commands within the Dockerfile should use the same casing (either upper or lower)"
            }
            Self::DuplicateStageName => "Stage names should be unique",
            Self::ReservedStageName => "Reserved words should not be used as stage names",
            Self::JSONArgsRecommended => {
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
            }
            Self::MaintainerDeprecated => {
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
            }
            Self::UndefinedArgInFrom => "FROM command must use declared ARGs",
            Self::WorkdirRelativePath => {
                "Relative workdir without an absolute workdir declared within the build can have unexpected results \
                 if the base image changes"
            }
            Self::UndefinedVar => "Variables should be defined before their use",
            Self::MultipleInstructionsDisallowed => {
                "Multiple instructions of the same type should not be used in the same stage"
            }
            Self::LegacyKeyValueFormat => "Legacy key/value format with whitespace separator should not be used",
            Self::InvalidBaseImagePlatform => "Base image platform does not match expected target platform",
            Self::RedundantTargetPlatform => {
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
            }
            Self::SecretsUsedInArgOrEnv => "Sensitive data should not be used in the ARG or ENV commands",
            Self::InvalidDefaultArgInFrom => {
                "Default value for global ARG results in an empty or invalid base image name"
            }
            Self::FromPlatformFlagConstDisallowed => "FROM --platform flag should not use a constant value",
            Self::CopyIgnoredFile => "Attempting to Copy file that is excluded by .dockerignore",
            Self::InvalidDefinitionDescription => {
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If \
                 this is not intended to be a description comment, add an empty line or comment between the \
                 instruction and the comment."
            }
            Self::ExposeProtoCasing => "Protocol in EXPOSE instruction should be lowercase",
            Self::ExposeInvalidFormat => {
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error \
                 in a future release"
            }
        }
    }

    /// Where it is documented; one rule has no page (SPEC A10.14, A10.23).
    #[must_use]
    pub fn url(self) -> Option<String> {
        if self == Self::InvalidBaseImagePlatform {
            return None;
        }
        let mut kebab = String::new();
        let name = self.name();
        for (at, c) in name.char_indices() {
            // The beginning of a word, where a run of capitals is one word: JSONArgs is json-args.
            let begins = c.is_uppercase()
                && at > 0
                && (name[..at].ends_with(char::is_lowercase) || name[at + 1..].starts_with(char::is_lowercase));
            if begins {
                kebab.push('-');
            }
            kebab.push(c.to_ascii_lowercase());
        }
        Some(format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/"))
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
