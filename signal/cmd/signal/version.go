package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
)

func version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary and of the protocol on Redis",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "signal %s, protocol %d, %s %s/%s\n",
				signal.Version(), proto.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
