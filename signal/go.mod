module github.com/signal-team/signal/signal

go 1.26.0

require (
	github.com/alicebob/miniredis/v2 v2.40.0 // the embedded Redis: docs/adr/0003
	github.com/caarlos0/env/v11 v11.4.2 // the environment into config
	github.com/go-chi/chi/v5 v5.5.0 // routes of api
	github.com/go-chi/cors v1.2.2 // whose pages may read answers of api
	github.com/golang-jwt/jwt/v5 v5.3.1 // tokens
	github.com/prometheus/client_golang v1.25.0 // metrics
	github.com/redis/go-redis/v9 v9.23.0 // Redis
	github.com/signal-team/signal/emitter v0.0.0
	github.com/signal-team/signal/proto v0.0.0
	github.com/sony/gobreaker/v2 v2.4.0 // an address of the application that fails is left alone for a while
	github.com/spf13/cobra v1.10.2 // commands
	go.uber.org/zap v1.28.0 // the log
	golang.org/x/sync v0.25.0 // errgroup: the parts of a node end together; semaphore: what request bodies may take
)

require (
	github.com/Shopify/toxiproxy/v2 v2.5.0 // tests: a Redis whose answers do not arrive
	github.com/chromedp/chromedp v0.23.0 // tests: the page in a real browser, without npm
	github.com/rs/zerolog v1.28.0 // tests: toxiproxy wants its logger
	go.yaml.in/yaml/v3 v3.0.6 // tests: deploy/ and traefik/ decoded strictly
	pgregory.net/rapid v1.3.0 // tests: properties of a room, with histories made small
)

require (
	github.com/MicahParks/jwkset v0.11.4
	github.com/coder/websocket v1.8.15
)

require (
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/chromedp/cdproto v0.159.0 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/gorilla/mux v1.8.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	github.com/mattn/go-colorable v0.1.13 // indirect
	github.com/mattn/go-isatty v0.0.16 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/rs/xid v1.4.0 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
	github.com/yuin/gopher-lua v1.1.2 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	golang.org/x/sys v0.50.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	gopkg.in/tomb.v1 v1.0.0-20141024135613-dd632973f1e7 // indirect
)

replace (
	github.com/signal-team/signal/emitter => ../emitter
	github.com/signal-team/signal/proto => ../proto
)
