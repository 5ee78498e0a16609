package subscriber

import (
	"log/slog"
	"time"
)

const userAgent = "outrelay-go"

// The levels: of what mends itself, and of what is somebody's fault.
const (
	levelRetry = slog.LevelInfo
	levelFault = slog.LevelError
)

func attrTopic(topic string) slog.Attr      { return slog.String("topic", topic) }
func attrName(name string) slog.Attr        { return slog.String("name", name) }
func attrWhat(what string) slog.Attr        { return slog.String("what", what) }
func attrErr(err error) slog.Attr           { return slog.String("err", err.Error()) }
func attrWait(wait time.Duration) slog.Attr { return slog.Duration("wait", wait) }
