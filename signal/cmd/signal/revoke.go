package main

import (
	"github.com/spf13/cobra"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

func revoke() *cobra.Command {
	var r proto.Revocation
	c := &cobra.Command{
		Use:   "revoke (--user <id> [--room <name>] | --session <sid> | --token <jti> | --tenant <name>)",
		Short: "Take back what tokens allow, over the Redis of APP_ENV_WEBSOCKET_REDIS_*",
		Long: `Ends the connections of a user, a session, a token or a tenant on all nodes within a
second, and has their tokens refused from then on. Of a user and a tenant it covers the tokens
that were issued up to now: who logs in anew gets in. With --room a user loses one room.`,
		Example: `  signal revoke --user cashier-7 --reason 'shift is over'
  signal revoke --user cashier-7 --room orders`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := emitter.FromEnv(cmd.Context())
			if err != nil {
				return err
			}
			defer e.Close()
			return e.Revoke(cmd.Context(), r)
		},
	}
	f := c.Flags()
	f.StringVar((*string)(&r.User), "user", "", "sub of the tokens")
	f.StringVar(&r.Session, "session", "", "sid of the tokens")
	f.StringVar(&r.Token, "token", "", "jti of the token")
	f.StringVar(&r.Tenant, "tenant", "", "tenant of the tokens")
	f.StringVar((*string)(&r.Room), "room", "", "of the user, this room alone")
	f.StringVar(&r.Reason, "reason", "", "told to the client")
	c.MarkFlagsMutuallyExclusive("user", "session", "token", "tenant")
	c.MarkFlagsOneRequired("user", "session", "token", "tenant")
	return c
}
