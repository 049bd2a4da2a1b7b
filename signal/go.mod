module github.com/signal-team/signal/signal

go 1.26.0

require (
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/caarlos0/env/v11 v11.4.2
	github.com/chromedp/chromedp v0.23.0
	github.com/go-chi/chi/v5 v5.5.0
	github.com/golang-jwt/jwt/v5 v5.3.1
	github.com/prometheus/client_golang v1.25.0
	github.com/redis/go-redis/v9 v9.23.0
	github.com/signal-team/signal/emitter v0.0.0
	github.com/signal-team/signal/proto v0.0.0
	github.com/spf13/cobra v1.10.2
	go.uber.org/zap v1.28.0
	go.yaml.in/yaml/v3 v3.0.6
	golang.org/x/sync v0.24.0
	nhooyr.io/websocket v1.8.17
)

replace (
	github.com/signal-team/signal/emitter => ../emitter
	github.com/signal-team/signal/proto => ../proto
)
