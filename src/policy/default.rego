package docker

# Releases of these images are signed by the workflows that make them, in the repository `repo`, for tags that begin with `refs`. A digest without
# a tag is used as it is, and so is a release from before there were signatures.
signers := {
	"docker.io/docker/dockerfile": {
		"repo": "moby/buildkit",
		"refs": "refs/tags/dockerfile/",
		"unsigned": `^(0\.\d+|1\.(\d|1\d|20))([.-].*)?$`,
	},
	"docker.io/docker/dockerfile-upstream": {
		"repo": "moby/buildkit",
		"refs": "refs/tags/dockerfile/",
		"unsigned": `^(0\.\d+|1\.(\d|1\d|20))([.-].*)?$`,
	},
	"docker.io/docker/buildkit-syft-scanner": {
		"repo": "docker/buildkit-syft-scanner",
		"refs": "refs/tags/v",
		"unsigned": `^$`,
	},
	"docker.io/moby/buildkit": {
		"repo": "moby/buildkit",
		"refs": "refs/tags/v",
		"unsigned": `^v0\.(\d|1\d|2[0-6])([.-].*)?$`,
	},
}

default needed := false

needed if {
	tag := input.image.tag
	signer := signers[input.image.fullRepo]
	not regex.match(signer.unsigned, tag)
}

# Tags that are versions come from the tag of that version, or, where they leave something out, of one that begins so.
version := trim_suffix(trim_prefix(input.image.tag, "v"), "-rootless")

is_version if regex.match(`^\d+(\.\d+)*(-.*)?$`, version)

variant(text) := regex.replace(text, `^[^-]*`, "")

numbers(text) := trim_suffix(text, variant(text))

is_from(ref, refs) if not is_version

is_from(ref, refs) if {
	startswith(ref, refs)
	released := trim_prefix(ref, refs)
	variant(released) == variant(version)
	startswith(concat("", [numbers(released), "."]), concat("", [numbers(version), "."]))
}

is_signed if {
	signer := signers[input.image.fullRepo]
	some signature in input.image.signatures
	docker_github_builder_signature(signature, signer.repo)
	is_from(signature.signer.sourceRepositoryRef, signer.refs)
}

denied if {
	needed
	not is_signed
}

default allow := true

allow := false if denied

deny_msg contains "its tag needs a signature by the workflow that makes it; name it by digest alone to do without" if denied

decision := {"allow": allow, "deny_msg": deny_msg}
