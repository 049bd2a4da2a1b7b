package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

func send() *cobra.Command {
	var (
		client, user, room, id string
		all                    bool
		except                 []string
	)
	c := &cobra.Command{
		Use:   "send (--room <name> | --user <id> | --client <id> | --all) <event> [<data as JSON>]",
		Short: "Send one event, as a service does, over the Redis of APP_ENV_WEBSOCKET_REDIS_*",
		Example: `  signal send --room orders order.paid '{"id":42}'
  signal send --all shop.closed`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var to proto.Target
			switch {
			case client != "":
				to = proto.ToClient(proto.ClientID(client))
			case user != "":
				to = proto.ToUser(proto.UserID(user))
			case room != "":
				to = proto.ToRoom(proto.Room(room))
			case all:
				to = proto.ToEveryone()
			}
			data := json.RawMessage("null")
			if len(args) == 2 {
				data = json.RawMessage(args[1])
			}
			var opts []emitter.Option
			if id != "" {
				opts = append(opts, emitter.EventID(proto.EventID(id)))
			}
			for _, e := range except {
				opts = append(opts, emitter.Except(proto.ClientID(e)))
			}
			e, err := emitter.FromEnv(cmd.Context())
			if err != nil {
				return err
			}
			defer e.Close()
			r, err := e.Send(cmd.Context(), to, proto.EventName(args[0]), data, opts...)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
		},
	}
	c.Flags().StringVar(&client, "client", "", "to one connection")
	c.Flags().StringVar(&user, "user", "", "to every connection of a user")
	c.Flags().StringVar(&room, "room", "", "to everyone in a room")
	c.Flags().BoolVar(&all, "all", false, "to everyone")
	c.Flags().StringVar(&id, "event-id", "", "the event's id; a UUIDv7 unless given")
	c.Flags().StringSliceVar(&except, "except", nil, "client ids that shall not get it")
	c.MarkFlagsMutuallyExclusive("client", "user", "room", "all")
	c.MarkFlagsOneRequired("client", "user", "room", "all")
	return c
}
