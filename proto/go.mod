module github.com/signal-team/signal/proto

go 1.26.0
