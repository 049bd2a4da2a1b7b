package signal

import (
	"fmt"

	"github.com/signal-team/signal/signal/api"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/hook"
	"github.com/signal-team/signal/signal/session"
)

// Verifier judges tokens as a node with this Config does, which lets the keys run. count gets what
// becomes of each question to the application: whose it is, and ok, no or failed.
func Verifier(cfg Config, count func(hook, result string)) (session.Verifier, *auth.Keys, error) {
	switch cfg.Auth {
	case "none":
		return auth.None{}, nil, nil
	case "ask":
		if who := cfg.Hooks.Authenticator; who != nil {
			return auth.NewAsker(who, AuthOptions(cfg)), nil, nil
		}
		return auth.NewAsker(address(cfg, "auth", cfg.AuthURL, hook.AskTimeout, count), AuthOptions(cfg)), nil, nil
	}
	return verifier(AuthOptions(cfg), "JWT_KEYS", cfg.JWTKeys)
}

// accessVerifier judges the application's access tokens; nil when none are taken.
func accessVerifier(cfg Config, count func(hook, result string)) (api.Verifier, *auth.Keys, error) {
	switch {
	case !cfg.Exchanges():
		return nil, nil, nil
	case cfg.AccessURL != "":
		return auth.NewAsker(address(cfg, "access", cfg.AccessURL, hook.AskTimeout, count), auth.Options{}), nil, nil
	}
	return verifier(auth.Options{Secret: []byte(cfg.AccessSecret), Issuer: cfg.AccessIssuer, Audience: cfg.AccessAudience}, "ACCESS_KEYS", cfg.AccessKeys)
}

func verifier(o auth.Options, name, keys string) (_ session.Verifier, _ *auth.Keys, err error) {
	if keys != "" {
		if o.Keys, err = auth.NewKeys(keys); err != nil {
			return nil, nil, fmt.Errorf("%s%s: %w", config.Prefix, name, err)
		}
	}
	return auth.New(o), o.Keys, nil
}

// AuthOptions say which tokens a node with this Config accepts, but for its keys, and issue such.
func AuthOptions(cfg Config) auth.Options {
	return auth.Options{
		Secret: []byte(cfg.JWTSecret), Issuer: cfg.JWTIssuer, Type: cfg.JWTType, Audience: cfg.JWTAudience, MaxLifetime: cfg.JWTMaxLifetime,
		Rooms: cfg.JWTRooms, Publish: cfg.JWTPublish,
	}
}
