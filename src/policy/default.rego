package docker

# Releases of these images are signed by the workflows that make them. Nothing here verifies signatures, so a tag of one of them is not used;
# a digest without a tag is, and so is a release from before there were signatures.
unsigned := {
	"docker.io/docker/dockerfile": `^(0\.\d+|1\.(\d|1\d|20))([.-].*)?$`,
	"docker.io/docker/dockerfile-upstream": `^(0\.\d+|1\.(\d|1\d|20))([.-].*)?$`,
	"docker.io/docker/buildkit-syft-scanner": `^$`,
	"docker.io/moby/buildkit": `^v0\.(\d|1\d|2[0-6])([.-].*)?$`,
}

default signed := false

signed if {
	input.image.tag
	older := unsigned[input.image.fullRepo]
	not regex.match(older, input.image.tag)
}

allow := signed == false

deny_msg contains "its signature is not verified here; name it by digest alone" if signed

decision := {"allow": allow, "deny_msg": deny_msg}
