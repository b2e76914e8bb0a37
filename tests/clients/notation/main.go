// notation, by its library: the program itself is no module that a proxy serves.
//
//	notation sign KEY CERTIFICATE IMAGE
//	notation verify CERTIFICATE IMAGE
//
// IMAGE has a digest. Credentials are NAME and PASSWORD; the registry speaks plain HTTP.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/notaryproject/notation-core-go/signature/jws"
	corex509 "github.com/notaryproject/notation-core-go/x509"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	image := arguments[len(arguments)-1]
	repository, err := remote.NewRepository(image)
	if err != nil {
		return err
	}
	repository.PlainHTTP = true
	repository.Client = &auth.Client{
		Credential: auth.StaticCredential(repository.Reference.Host(), auth.Credential{
			Username: os.Getenv("NAME"), Password: os.Getenv("PASSWORD"),
		}),
		Cache: auth.NewCache(),
	}
	switch {
	case arguments[0] == "sign" && len(arguments) == 4:
		made, err := signer.NewFromFiles(arguments[1], arguments[2])
		if err != nil {
			return err
		}
		_, err = notation.Sign(ctx, made, registry.NewRepository(repository), notation.SignOptions{
			SignerSignOptions: notation.SignerSignOptions{SignatureMediaType: jws.MediaTypeEnvelope},
			ArtifactReference: image,
		})
		return err
	case arguments[0] == "verify" && len(arguments) == 3:
		policy := &trustpolicy.Document{
			Version: "1.0",
			TrustPolicies: []trustpolicy.TrustPolicy{{
				Name:                  "all",
				RegistryScopes:        []string{"*"},
				SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: trustpolicy.LevelStrict.Name},
				TrustStores:           []string{"ca:ours"},
				TrustedIdentities:     []string{"*"},
			}},
		}
		made, err := verifier.New(policy, store(arguments[1]), nil)
		if err != nil {
			return err
		}
		_, _, err = notation.Verify(ctx, made, registry.NewRepository(repository), notation.VerifyOptions{
			ArtifactReference: image, MaxSignatureAttempts: 10,
		})
		return err
	}
	return errors.New("sign KEY CERTIFICATE IMAGE, or verify CERTIFICATE IMAGE")
}

// A trust store that is one file.
type store string

func (path store) GetCertificates(context.Context, truststore.Type, string) ([]*x509.Certificate, error) {
	return corex509.ReadCertificateFile(string(path))
}
