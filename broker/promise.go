package broker

import "fmt"

// Promise is what an answered publish survives, in words, as this broker's log is
// set up (design: "Durability, said plainly").
func (b *Broker) Promise() string { return b.config.promise() }

func (c Config) promise() string {
	one := c.Log.Replicas == 1
	switch {
	case c.Log.Storage == "memory" && one:
		return "An answered publish is in this broker's memory: it survives the end of a gateway, not of the broker."
	case c.Log.Storage == "memory":
		return fmt.Sprintf("An answered publish is in the memory of a quorum of %d brokers: it survives the end of one.", c.Log.Replicas)
	case c.Log.Flush == "":
		return "unknown"
	case c.Log.Flush == FlushAlways && one:
		return "An answered publish is flushed to the device: it survives the loss of power."
	case c.Log.Flush == FlushAlways:
		return fmt.Sprintf("An answered publish is flushed to the devices of a quorum of %d brokers: it survives the loss of power, and of one machine.", c.Log.Replicas)
	case one:
		return "An answered publish is written by the operating system and flushed every " + c.Log.Flush + ": it survives kill -9, not the loss of power."
	}
	return fmt.Sprintf("An answered publish is written by the operating systems of a quorum of %d brokers and flushed every %s: it survives kill -9, and the loss of one machine.", c.Log.Replicas, c.Log.Flush)
}
