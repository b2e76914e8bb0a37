// The newest containers/image, which podman, skopeo, buildah and CRI-O pull and push with, as one small program:
// Debian's are older, and the programs themselves are no modules that a proxy serves.
//
//	containers-image copy [--all] [--zstd-chunked] [--storage FOLDER] FROM TO
//	containers-image tags REPOSITORY
//	containers-image delete IMAGE
//
// Credentials are read from REGISTRY_AUTH_FILE; registries speak plain HTTP. With --storage, TO is a name in an overlay
// store in that folder, and layers are pulled in parts where they allow it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/signature"
	imagestorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/transports/alltransports"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/reexec"
)

func main() {
	if reexec.Init() {
		return
	}
	if err := run(context.Background(), os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string, arguments []string) error {
	flags := flag.NewFlagSet(command, flag.ExitOnError)
	all := flags.Bool("all", false, "all images of an index")
	chunked := flags.Bool("zstd-chunked", false, "compress layers as zstd:chunked")
	folder := flags.String("storage", "", "folder of the store")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	system := &types.SystemContext{
		AuthFilePath:                os.Getenv("REGISTRY_AUTH_FILE"),
		BlobInfoCacheDir:            os.Getenv("HOME"),
		DockerInsecureSkipTLSVerify: types.OptionalBoolTrue,
		RegistriesDirPath:           "/nonexistent",
		SystemRegistriesConfPath:    "/dev/null",
	}
	from, err := alltransports.ParseImageName(flags.Arg(0))
	if err != nil {
		return err
	}
	switch command {
	case "tags":
		tags, err := docker.GetRepositoryTags(ctx, system, from)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(tags)
	case "delete":
		return from.DeleteImage(ctx, system)
	case "copy":
		return copyImage(ctx, system, from, flags.Arg(1), *folder, *all, *chunked)
	}
	return errors.New("copy, tags or delete")
}

func copyImage(
	ctx context.Context, system *types.SystemContext, from types.ImageReference, name, folder string, all, chunked bool,
) error {
	var to types.ImageReference
	var err error
	if folder == "" {
		to, err = alltransports.ParseImageName(name)
	} else {
		store, problem := storage.GetStore(storage.StoreOptions{
			RunRoot: folder + "/run", GraphRoot: folder + "/root", GraphDriverName: "overlay",
			PullOptions: map[string]string{"enable_partial_images": "true"},
		})
		if problem != nil {
			return problem
		}
		defer func() { _, _ = store.Shutdown(true) }()
		to, err = imagestorage.Transport.ParseStoreReference(store, name)
	}
	if err != nil {
		return err
	}
	policy, err := signature.NewPolicyContext(
		&signature.Policy{Default: []signature.PolicyRequirement{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	options := &copy.Options{ReportWriter: os.Stdout, SourceCtx: system, DestinationCtx: system, PreserveDigests: !chunked}
	if all {
		options.ImageListSelection = copy.CopyAllImages
	}
	if chunked {
		compressed := *system
		compressed.CompressionFormat = &compression.ZstdChunked
		options.DestinationCtx = &compressed
		options.ForceCompressionFormat = true
	}
	_, err = copy.Image(ctx, policy, to, from, options)
	return err
}
