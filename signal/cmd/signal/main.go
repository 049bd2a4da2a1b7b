// Command signal runs a node of the real-time edge, and what goes with it. Each
// subcommand is a file here.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/signal-team/signal/signal/config"
)

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) }) // a second Ctrl-C ends at once, a second SIGTERM changes nothing
	redis.SetLogger(quiet{})                                      // the bus says what matters, once
	if err := command().ExecuteContext(ctx); err != nil {
		code := 1
		if said, ok := errors.AsType[exit](err); ok {
			code = int(said)
		} else if !errors.Is(err, errLogged) {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func command() *cobra.Command {
	c := &cobra.Command{
		Use:           "signal",
		Short:         "The real-time edge: WebSockets for tills and Admin pages, events from services over Redis",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(serve(), dev(), benchmark(), token(), send(), revoke(), doctor(), health(), version())
	return c
}

// load reads the configuration, and says which variables nobody reads.
func load() (config.Config, error) {
	cfg, err := config.Load()
	if err != nil {
		for _, w := range config.Unknown() {
			err = fmt.Errorf("%w\n%s", err, w)
		}
		return cfg, fmt.Errorf("the configuration is wrong:\n%w", err)
	}
	return cfg, nil
}

func logger(level string) (*zap.Logger, error) {
	z := zap.NewProductionConfig()
	if err := z.Level.UnmarshalText([]byte(level)); err != nil {
		return nil, err
	}
	z.DisableStacktrace = true
	z.DisableCaller = true
	z.EncoderConfig.TimeKey = "time"
	z.EncoderConfig.EncodeTime = isoTime
	return z.Build()
}

// errLogged ends a command whose log has said why.
var errLogged = errors.New("logged")
