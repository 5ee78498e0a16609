package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/datafolder"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/token"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

func newTokenCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "token",
		Short: "Make, read or verify a token",
		Long: `Make, read or verify a token.

Keys and tokens are read from files, from standard input (as the file "-") or from
the environment, never from arguments, which everybody on the machine can see.`,
		Example: `  outrelay token create --key-name all --key-file all.key --expires-in 10m --out token
  outrelay token inspect --token-file token`,
	})
	cmd.AddCommand(newTokenCreateCommand(), newTokenInspectCommand(), newTokenVerifyCommand())
	return cmd
}

// noToken refuses arguments without repeating them: one may be a token.
func noToken(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errors.New("it takes no arguments; a token is read from --token-file, or from standard input with --token-file -")
	}
	return nil
}

func newTokenCreateCommand() *cobra.Command {
	var (
		keyName, keyFile, gateway, resource         string
		issuer, audience, subject, keyID, algorithm string
		rights                                      access.Rights
		life                                        time.Duration
		out                                         string
		asJSON                                      bool
	)
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token from a key in a file",
		Long: `Make a token from a key in a file.

With --key-name it is a shared access signature from a shared key of the gateway's
config. It is for all of the namespace, or with --resource for a part of it.

With --issuer it is a JSON Web Token, for a gateway whose config has that issuer
under jwt. The file holds a private key in PEM (RSA, P-256 or Ed25519), or the text
of a secret for HS256. The rights are those that the flags name.`,
		Example: `  outrelay token create --key-name all --key-file all.key --resource https://relay.example.com/topics/orders
  outrelay token create --issuer https://me.example --audience relay --key-file issuer.pem --subscribe 'orders/**' --out token`,
		Args: noToken,
	}
	flags := cmd.Flags()
	flags.StringVar(&keyFile, "key-file", "", "`FILE` that holds the key alone, or - for standard input")
	flags.DurationVar(&life, "expires-in", time.Hour, "how long the token holds, such as 10m or 720h")
	flags.StringVar(&out, "out", "", "write the token alone to `FILE`, which only its owner may read, or to standard output as -")
	flags.BoolVar(&asJSON, "json", false, "print JSON, also on a terminal")
	flags.StringVar(&keyName, "key-name", "", "`NAME` of the shared key, for a shared access signature")
	flags.StringVar(&resource, "resource", "", "`URL` that the signature is for: https://HOST/topics/TOPIC, https://HOST/NAME, or all of https://HOST/")
	flags.StringVar(&gateway, "gateway", "", "the gateway's `URL`, for a signature over all of it (else OUTRELAY_GATEWAY, else "+defaultGateway+")")
	flags.StringVar(&issuer, "issuer", "", "exact `TEXT` of the claim iss, for a JSON Web Token")
	flags.StringVar(&audience, "audience", "", "`TEXT` of the claim aud, as in the gateway's config")
	flags.StringVar(&subject, "subject", "", "`TEXT` of the claim sub: whose token it is")
	flags.StringVar(&keyID, "key-id", "", "`ID` of the key in the issuer's JWKS")
	flags.StringVar(&algorithm, "algorithm", "", "PS256 in place of RS256 for an RSA key; other keys leave no choice")
	addRightsFlags(cmd, &rights)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		misuse := func(format string, args ...any) error {
			return usageError{cmd.CommandPath(), fmt.Errorf(format, args...)}
		}
		web := issuer != ""
		switch {
		case web == (keyName != ""):
			return misuse("write either --key-name, for a shared access signature, or --issuer, for a JSON Web Token")
		case keyFile == "":
			return misuse("write the file of the key: --key-file FILE")
		case life < time.Second:
			return misuse("--expires-in %v is too short; write at least 1s", life)
		case out != "" && asJSON:
			return misuse("--out writes the token alone, and --json more than that; write one of them")
		}
		if other := foreignFlag(cmd, web); other != "" {
			return misuse("--%s does not go with the other flags; see which kind of token it is for", other)
		}
		content, err := readFile(cmd, "--key-file", keyFile)
		if err != nil {
			return err
		}
		expires := time.Now().Add(life).Truncate(time.Second)
		var made string
		if web {
			if audience == "" {
				return misuse("write the audience, as the gateway's config has it: --audience TEXT")
			}
			if err := rights.Validate(); err != nil {
				return misuse("%w", err)
			}
			key, err := token.ParseKey(content, algorithm)
			if err != nil {
				return fmt.Errorf("--key-file %s: %w", keyFile, err)
			}
			made, err = key.Sign(token.Claims{
				KeyID: keyID, Issuer: issuer, Subject: subject, Audience: audience, Expires: expires, Rights: rights,
			})
			if err != nil {
				return err
			}
		} else {
			key, err := oneLine("--key-file", keyFile, content)
			if err != nil {
				return err
			}
			if resource == "" {
				gateway = cmp.Or(gateway, os.Getenv("OUTRELAY_GATEWAY"), defaultGateway)
				resource = strings.TrimRight(gateway, "/") + "/"
			}
			made = schemas.SignSAS(resource, keyName, key, expires)
		}
		if _, err := access.Inspect(made); err != nil { // what no gateway would take is not handed out
			return misuse("no gateway would take this token: %w", err)
		}
		return printToken(cmd.OutOrStdout(), made, expires, out, asJSON)
	}
	return cmd
}

// addRightsFlags gives a command a flag for each kind of right.
func addRightsFlags(cmd *cobra.Command, r *access.Rights) {
	flags := cmd.Flags()
	flags.StringArrayVar(&r.Publish, "publish", nil, "topic `FILTER` to publish to; may be repeated, as the next four")
	flags.StringArrayVar(&r.Subscribe, "subscribe", nil, "topic `FILTER` to subscribe to")
	flags.StringArrayVar(&r.Subscriptions, "subscription", nil, "`NAME` of a durable subscription to use")
	flags.StringArrayVar(&r.Listen, "listen", nil, "`NAME` of a hybrid connection to listen on")
	flags.StringArrayVar(&r.Send, "send", nil, "`NAME` of a hybrid connection to send to")
	flags.BoolVar(&r.Manage, "manage", false, "manage the namespace")
}

// foreignFlag names a flag that was given and is for the other kind of token.
func foreignFlag(cmd *cobra.Command, web bool) string {
	others := []string{"audience", "subject", "key-id", "algorithm", "publish", "subscribe", "subscription", "listen", "send", "manage"}
	if web {
		others = []string{"resource", "gateway"}
	}
	for _, name := range others {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

// printToken writes a token: alone to a file, or where a program reads it with what
// belongs to it.
func printToken(w io.Writer, made string, expires time.Time, out string, asJSON bool) error {
	switch {
	case out == "-":
		_, err := fmt.Fprintln(w, made)
		return err
	case out != "":
		if err := datafolder.WriteFile(out, []byte(made+"\n"), 0o600); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		made = ""
	}
	if asJSON || !isTerminal(w) {
		return json.NewEncoder(w).Encode(struct {
			Token   string    `json:"token,omitempty"`
			File    string    `json:"file,omitempty"`
			Expires time.Time `json:"expires"`
		}{made, out, expires.UTC()})
	}
	if made == "" {
		made = out + " has the token"
	}
	_, err := fmt.Fprintf(w, "%s\n\nIt expires on %s.\n", made, expires.Format(time.RFC1123))
	return err
}

func newTokenInspectCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Print what a token says of itself, without verifying it",
		Long: `Print what a token says of itself: its kind, key or issuer, rights and expiry. Nothing
of it is verified, and nobody is asked; the token itself is not printed.`,
		Example: `  outrelay token inspect --token-file token
  pass show relay | outrelay token inspect --token-file -`,
		Args: noToken,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readToken(cmd, file)
			if err != nil {
				return err
			}
			said, err := access.Inspect(text)
			if err != nil {
				return err
			}
			answer := inspected{said, !time.Now().Before(said.Expires)}
			if asJSON || !isTerminal(cmd.OutOrStdout()) {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
			}
			return answer.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&file, "token-file", "", "`FILE` that holds the token alone, or - for standard input (else OUTRELAY_TOKEN)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, also on a terminal")
	return cmd
}

// inspected is what inspect prints.
type inspected struct {
	access.Inspection
	Expired bool `json:"expired"`
}

func (i inspected) print(w io.Writer) error {
	expires := i.Expires.Format(time.RFC3339)
	if i.Expired {
		expires += ", which is over"
	}
	lines := [][2]string{
		{"kind", map[string]string{"sas": "shared access signature", "jwt": "JSON Web Token"}[i.Kind]},
		{"key", i.Key}, {"resource", i.Resource},
		{"algorithm", i.Algorithm}, {"key id", i.KeyID}, {"issuer", i.Issuer}, {"subject", i.Subject},
		{"audience", strings.Join(i.Audience, " ")}, {"expires", expires},
	}
	if i.Rights != nil {
		lines = append(lines, rightsLines(*i.Rights)...)
	}
	if err := printLines(w, lines); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "Nothing of this is verified: outrelay token verify does that.")
	return err
}

// rightsLines tells rights to a person.
func rightsLines(r access.Rights) [][2]string {
	manage := ""
	if r.Manage {
		manage = "the namespace"
	}
	return [][2]string{
		{"publish", strings.Join(r.Publish, " ")}, {"subscribe", strings.Join(r.Subscribe, " ")},
		{"subscriptions", strings.Join(r.Subscriptions, " ")}, {"listen", strings.Join(r.Listen, " ")},
		{"send", strings.Join(r.Send, " ")}, {"manage", manage},
	}
}

// printLines prints names and values, those that there are. A value is a stranger's
// text, so what a terminal would act on is escaped.
func printLines(w io.Writer, lines [][2]string) error {
	for _, l := range lines {
		if l[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-13s %s\n", l[0], printable(l[1])); err != nil {
			return err
		}
	}
	return nil
}

// printable escapes what is no printable character.
func printable(s string) string {
	quoted := fmt.Sprintf("%+q", s)
	if quoted[1:len(quoted)-1] == s {
		return s
	}
	return quoted
}

func newTokenVerifyCommand() *cobra.Command {
	var (
		o                     config.Options
		data, namespace, file string
		asks                  access.Rights
		asJSON                bool
	)
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Say whether a gateway with this config takes a token, and what it allows",
		Long: `Say whether a gateway with this config takes a token, and what it allows.

It does what the gateway would do, and asks the token's issuer for its keys where the
config names one. With flags for rights it says whether the token gives all of them.
A token that is not taken, or gives less, ends with exit code 5.`,
		Example: `  outrelay token verify --config outrelay.yaml --token-file token --subscribe 'orders/**'`,
		Args:    noToken,
	}
	flags := cmd.Flags()
	flags.StringVar(&o.File, "config", "", "the gateway's config `FILE`")
	flags.BoolVar(&o.Dev, "dev", false, "verify it as outrelay serve --dev would")
	flags.StringVar(&data, "data", "", "the gateway's data `DIR`, where the root key is (else as in the config)")
	flags.StringVar(&namespace, "namespace", broker.DefaultNamespace, "`NAME` of the namespace")
	flags.StringVar(&file, "token-file", "", "`FILE` that holds the token alone, or - for standard input (else OUTRELAY_TOKEN)")
	flags.BoolVar(&asJSON, "json", false, "print JSON, also on a terminal")
	addRightsFlags(cmd, &asks)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.File == "" && !o.Dev {
			return usageError{cmd.CommandPath(), errors.New("write the gateway's config: --config FILE")}
		}
		if err := asks.Validate(); err != nil {
			return usageError{cmd.CommandPath(), err}
		}
		if flags.Changed("data") {
			o.Data = &data
		}
		c, err := config.Load(o)
		if err != nil {
			return err
		}
		if namespace != broker.DefaultNamespace && c.Namespaces[namespace] == nil {
			return usageError{cmd.CommandPath(), fmt.Errorf("the config has no namespace %q", namespace)}
		}
		text, err := readToken(cmd, file)
		if err != nil {
			return err
		}
		grant, err := verify(cmd.Context(), c, namespace, text, asksOf(asks))
		if err != nil {
			return err
		}
		answer := verified{namespace, grant.Subject, grant.Expires.UTC(), grant.Rights()}
		if asJSON || !isTerminal(cmd.OutOrStdout()) {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
		}
		return printLines(cmd.OutOrStdout(), append([][2]string{
			{"namespace", answer.Namespace}, {"subject", answer.Subject}, {"expires", answer.Expires.Format(time.RFC3339)},
		}, rightsLines(answer.Rights)...))
	}
	return cmd
}

// verified is what verify prints.
type verified struct {
	Namespace string        `json:"namespace"`
	Subject   string        `json:"subject"`
	Expires   time.Time     `json:"expires"`
	Rights    access.Rights `json:"rights"`
}

// verify checks a token as a gateway with the config does.
func verify(ctx context.Context, c *config.Config, namespace, text string, asks []access.Ask) (*access.Grant, error) {
	who := c.Access()
	if c.WidestKey() == nil { // then the gateway made one on its first start
		secret, err := config.ReadSecret(filepath.Join(c.Data, datafolder.RootKeyFile))
		if err == nil {
			withRootKey(&who, secret)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("root key: %w", err)
		}
	}
	policy, err := access.New(who)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // fetches the issuers' keys; ends with ctx
		defer close(ended)
		_ = policy.Run(ctx) // it has no error
	}()
	defer func() {
		cancel()
		<-ended
	}()
	grant, err := policy.Check(ctx, namespace, text)
	if err != nil {
		return nil, err
	}
	for _, a := range asks {
		if err := grant.Allows(a); err != nil {
			return nil, err
		}
	}
	return grant, nil
}

// asksOf turns rights into the questions whether they are given.
func asksOf(r access.Rights) []access.Ask {
	var asks []access.Ask
	for _, f := range r.Publish {
		asks = append(asks, access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(f)})
	}
	for _, f := range r.Subscribe {
		asks = append(asks, access.Ask{Action: access.Subscribe, Topics: schemas.TopicFilter(f)})
	}
	for _, named := range []struct {
		action access.Action
		names  []string
	}{{access.Subscription, r.Subscriptions}, {access.Listen, r.Listen}, {access.Send, r.Send}} {
		for _, n := range named.names {
			asks = append(asks, access.Ask{Action: named.action, Name: n})
		}
	}
	if r.Manage {
		asks = append(asks, access.Ask{Action: access.Manage})
	}
	return asks
}

// readToken reads the token that a command is about.
func readToken(cmd *cobra.Command, file string) (string, error) {
	if file == "" {
		if given := strings.TrimSpace(os.Getenv("OUTRELAY_TOKEN")); given != "" {
			return given, nil
		}
		return "", usageError{cmd.CommandPath(), errors.New("write where the token is: --token-file FILE, or - for standard input")}
	}
	content, err := readFile(cmd, "--token-file", file)
	if err != nil {
		return "", err
	}
	return oneLine("--token-file", file, content)
}

// maxSecretFile is the longest file of a key or token in bytes.
const maxSecretFile = 64 << 10

// readFile reads the file that a flag names; "-" is standard input.
func readFile(cmd *cobra.Command, flag, file string) ([]byte, error) {
	from := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		defer f.Close()
		from = f
	}
	content, err := io.ReadAll(io.LimitReader(from, maxSecretFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return content, nil
}
