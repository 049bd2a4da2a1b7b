package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/auth"
)

func token() *cobra.Command {
	var (
		who            proto.Bearer
		rooms, publish []string
		life           time.Duration
	)
	c := &cobra.Command{
		Use:     "token --user <id>",
		Short:   "Print a token for a client, signed with APP_ENV_SIGNAL_JWT_SECRET",
		Example: "  signal token --user u1 --rooms 'orders,order:*' --publish 'chat:*' --ttl 1m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			if cfg.JWTSecret == "" {
				return errors.New("APP_ENV_SIGNAL_JWT_SECRET is not set")
			}
			if life <= 0 || cfg.JWTMaxLifetime > 0 && life > cfg.JWTMaxLifetime {
				return fmt.Errorf("--ttl must be positive and at most %s, is %s", cfg.JWTMaxLifetime, life)
			}
			t, err := signal.AuthOptions(cfg).IssueFor(auth.Identity{Bearer: who, Rooms: rooms, Publish: publish, Expires: time.Now().Add(life).Unix()})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
	c.Flags().StringVar((*string)(&who.User), "user", "", "who the bearer is")
	c.Flags().StringVar(&who.Session, "session", "", "sid: what can be revoked together")
	c.Flags().StringVar(&who.Token, "id", "", "jti: by which it can be revoked alone")
	c.Flags().StringVar(&who.Tenant, "tenant", "", "whose user the bearer is")
	c.Flags().StringSliceVar(&rooms, "rooms", nil, "rooms that may be joined: names, or prefixes that end in *")
	c.Flags().StringSliceVar(&publish, "publish", nil, "rooms that may be published to")
	c.Flags().DurationVar(&life, "ttl", time.Minute, "how long the token is good")
	_ = c.MarkFlagRequired("user")
	return c
}
