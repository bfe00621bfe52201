//! The words of each rule for one violation (SPEC A10.01–A10.22), for the rules here and those of the front end.

use super::Rule;
use crate::base::wording::quote;

impl Rule {
    /// [`Rule::StageNameCasing`]
    #[must_use]
    pub fn stage_name_casing(name: &str) -> String {
        format!("Stage name '{name}' should be lowercase")
    }

    /// [`Rule::FromAsCasing`]
    #[must_use]
    pub fn from_as_casing(from: &str, keyword: &str) -> String {
        format!("'{keyword}' and '{from}' keywords' casing do not match")
    }

    /// [`Rule::ConsistentInstructionCasing`]
    #[must_use]
    pub fn consistent_instruction_casing(keyword: &str, lower: bool) -> String {
        let casing = if lower { "lowercase" } else { "uppercase" };
        format!("Command '{keyword}' should match the case of the command majority ({casing})")
    }

    /// [`Rule::DuplicateStageName`]
    #[must_use]
    pub fn duplicate_stage_name(name: &str) -> String {
        format!("Duplicate stage name {}, stage names should be unique", quote(name))
    }

    /// [`Rule::ReservedStageName`]
    #[must_use]
    pub fn reserved_stage_name(name: &str) -> String {
        format!("Stage name should not use the same name as reserved stage {}", quote(name))
    }

    /// [`Rule::JSONArgsRecommended`]
    #[must_use]
    pub fn json_args_recommended(instruction: &str) -> String {
        format!("JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals")
    }

    /// [`Rule::MaintainerDeprecated`]
    #[must_use]
    pub fn maintainer_deprecated() -> String {
        "Maintainer instruction is deprecated in favor of using label".to_owned()
    }

    /// [`Rule::UndefinedArgInFrom`]
    #[must_use]
    pub fn undefined_arg_in_from(name: &str, suggestion: Option<&str>) -> String {
        let meant = suggestion.map_or_else(String::new, |word| format!(" (did you mean {word}?)"));
        format!("FROM argument '{name}' is not declared{meant}")
    }

    /// [`Rule::WorkdirRelativePath`]
    #[must_use]
    pub fn workdir_relative_path(path: &str) -> String {
        format!("Relative workdir {} can have unexpected results if the base image changes", quote(path))
    }

    /// [`Rule::UndefinedVar`]
    #[must_use]
    pub fn undefined_var(name: &str, suggestion: Option<&str>) -> String {
        let meant = suggestion.map_or_else(String::new, |word| format!(" (did you mean ${word}?)"));
        format!("Usage of undefined variable '${name}'{meant}")
    }

    /// [`Rule::MultipleInstructionsDisallowed`]
    #[must_use]
    pub fn multiple_instructions_disallowed(instruction: &str) -> String {
        format!(
            "Multiple {instruction} instructions should not be used in the same stage because only the last one will be \
             used"
        )
    }

    /// [`Rule::LegacyKeyValueFormat`]
    #[must_use]
    pub fn legacy_key_value_format(instruction: &str) -> String {
        format!("\"{instruction} key=value\" should be used instead of legacy \"{instruction} key value\" format")
    }

    /// [`Rule::InvalidBaseImagePlatform`]
    #[must_use]
    pub fn invalid_base_image_platform(image: &str, expected: &str, actual: &str) -> String {
        format!(
            "Base image {image} was pulled with platform {}, expected {} for current build",
            quote(actual),
            quote(expected)
        )
    }

    /// [`Rule::RedundantTargetPlatform`]
    #[must_use]
    pub fn redundant_target_platform(expression: &str) -> String {
        format!("Setting platform to predefined {expression} in FROM is redundant as this is the default behavior")
    }

    /// [`Rule::SecretsUsedInArgOrEnv`]
    #[must_use]
    pub fn secrets_used_in_arg_or_env(instruction: &str, key: &str) -> String {
        format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {})", quote(key))
    }

    /// [`Rule::InvalidDefaultArgInFrom`]
    #[must_use]
    pub fn invalid_default_arg_in_from(base: &str) -> String {
        format!("Default value for ARG {base} results in empty or invalid base image name")
    }

    /// [`Rule::FromPlatformFlagConstDisallowed`]
    #[must_use]
    pub fn from_platform_flag_const_disallowed(platform: &str) -> String {
        format!("FROM --platform flag should not use constant value {}", quote(platform))
    }

    /// [`Rule::CopyIgnoredFile`]; the instruction as `Copy` or `Add`.
    #[must_use]
    pub fn copy_ignored_file(instruction: &str, file: &str) -> String {
        format!("Attempting to {instruction} file {} that is excluded by .dockerignore", quote(file))
    }

    /// [`Rule::InvalidDefinitionDescription`]
    #[must_use]
    pub fn invalid_definition_description(instruction: &str, name: &str) -> String {
        format!("Comment for {instruction} should follow the format: `# {name} <description>`")
    }

    /// [`Rule::ExposeProtoCasing`]
    #[must_use]
    pub fn expose_proto_casing(port: &str) -> String {
        format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase")
    }

    /// [`Rule::ExposeInvalidFormat`]
    #[must_use]
    pub fn expose_invalid_format(port: &str) -> String {
        format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'")
    }
}
