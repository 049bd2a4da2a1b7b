package main

import (
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/config"
)

func serve() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run a node, configured by APP_ENV_SIGNAL_* and APP_ENV_WEBSOCKET_REDIS_*",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			log, err := logger(cfg.LogLevel)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			for _, w := range config.Unknown() {
				log.Warn("unknown variable", zap.String("hint", w))
			}
			node, err := signal.New(cfg, log)
			if err == nil {
				err = node.Run(cmd.Context())
			}
			if err != nil {
				log.Error("node failed", zap.Error(err))
				return errLogged
			}
			return nil
		},
	}
}

func isoTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z"))
}
