package docker

# What buildx offers to policies about images that Docker's workflows for GitHub built.

docker_github_builder(image, repo) if {
	image.hasProvenance
	some signature in image.signatures
	docker_github_builder_signature(signature, repo)
}

docker_github_builder_tag(image, repo, tag) if {
	image.hasProvenance
	some signature in image.signatures
	docker_github_builder_signature(signature, repo)
	signature.signer.sourceRepositoryRef == concat("", ["refs/tags/", tag])
}

docker_github_builder_signature(signature, repo) if {
	signature.type == "bundle-v0.3"
	signature.kind == "docker-github-builder"
	count(signature.timestamps) > 0
	who := signature.signer
	who.certificateIssuer == "CN=sigstore-intermediate,O=sigstore.dev"
	who.issuer == "https://token.actions.githubusercontent.com"
	who.runnerEnvironment == "github-hosted"
	who.sourceRepositoryURI == concat("", ["https://github.com/", repo])
}
