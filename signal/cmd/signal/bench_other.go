//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func benchmark() *cobra.Command {
	return &cobra.Command{
		Use: "bench", Short: "Measure what tills cost a node (on Linux)", Args: cobra.ArbitraryArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("bench needs Linux: it reads for thousands of clients by epoll, and CPU times from /proc")
		},
	}
}
