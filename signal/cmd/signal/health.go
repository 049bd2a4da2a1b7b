package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/signal-team/signal/signal/config"
)

func health() *cobra.Command {
	var ready bool
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask the node on APP_ENV_SIGNAL_ADMIN_ADDR whether it lives; the exit code is the answer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			addr, err := config.AdminAddr()
			if err != nil {
				return err
			}
			path := "/livez"
			if ready {
				path = "/readyz"
			}
			client := http.Client{Timeout: 3 * time.Second}
			r, err := client.Get("http://" + addr + path)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			if r.StatusCode != http.StatusOK {
				said, _ := io.ReadAll(io.LimitReader(r.Body, 4<<10))
				var problem struct{ Detail string }
				_ = json.Unmarshal(said, &problem)
				return fmt.Errorf("%s answers %s: %s", path, r.Status, problem.Detail)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		},
	}
	c.Flags().BoolVar(&ready, "ready", false, "ask whether it wants new clients")
	return c
}
