package schemas_test

import (
	"strings"
	"testing"

	"github.com/outrelay/outrelay/schemas"
)

// typicalEvent has about 1 KB and 12 members, as most events do.
var typicalEvent = []byte(`{"specversion":"1.0","id":"b7f0d0a2-6c7e-4f0a-9d43-0f2b8f3a9c11","source":"https://shop.example.com/eu/checkout/cluster-7","type":"com.example.shop.order.paid.v2","subject":"orders/2026/11/A-17-0042","time":"2026-11-23T10:11:12.123456Z","datacontenttype":"application/json","dataschema":"https://schemas.example.com/shop/order-paid/2.json","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","partitionkey":"customer-99812","severitynumber":9,"data":{"order":"A-17-0042","customer":{"id":99812,"name":"Zo\u00eb M\u00fcller","email":"zoe@example.com"},"total":1250.75,"currency":"EUR","lines":[{"sku":"X-100","n":2,"price":499.5,"title":"A lamp, brass"},{"sku":"X-200","n":1,"price":251.75,"title":"A table, small"}],"paid":true,"note":null,"address":{"street":"Lange Stra\u00dfe 5","city":"Hannover","zip":"30159","country":"DE"},"tags":["new","priority","gift"],"pad":"` + strings.Repeat("x", 64) + `"}}`)

func BenchmarkParseEvent(b *testing.B) {
	b.SetBytes(int64(len(typicalEvent)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schemas.ParseEvent(typicalEvent); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseBinary(b *testing.B) {
	header := map[string][]string{
		"Content-Type":      {"application/json"},
		"Ce-Specversion":    {"1.0"},
		"Ce-Id":             {"b7f0d0a2-6c7e-4f0a-9d43-0f2b8f3a9c11"},
		"Ce-Source":         {"https://shop.example.com/eu/checkout/cluster-7"},
		"Ce-Type":           {"com.example.shop.order.paid.v2"},
		"Ce-Subject":        {"orders/2026/11/A-17-0042"},
		"Ce-Time":           {"2026-11-23T10:11:12.123456Z"},
		"Ce-Dataschema":     {"https://schemas.example.com/shop/order-paid/2.json"},
		"Ce-Traceparent":    {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"Ce-Partitionkey":   {"customer-99812"},
		"Ce-Severitynumber": {"9"},
		"Accept":            {"*/*"},
		"User-Agent":        {"curl/8.0"},
	}
	e, err := schemas.ParseEvent(typicalEvent)
	if err != nil {
		b.Fatal(err)
	}
	body, _ := e.Data()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schemas.ParseBinary(header, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendDelivered(b *testing.B) {
	e, err := schemas.ParseEvent(typicalEvent)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	cursor := schemas.Cursor{Log: 1 << 60, Sequence: 1 << 20, Accepted: 1 << 60}
	b.ReportAllocs()
	for b.Loop() {
		dst = schemas.AppendDelivered(dst[:0], e.JSON(), "orders/eu/paid", &cursor)
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if !schemas.TopicFilter("orders/*/paid/**").Match("orders/eu/paid/card/visa") {
			b.Fatal("no match")
		}
	}
}

// BenchmarkParseWithin is a publish in a session: its message, and the event within.
func BenchmarkParseWithin(b *testing.B) {
	message := []byte(`{"op":"publish","id":"1234567","topic":"live/0","event":{"specversion":"1.0","id":"042000123456","source":"/bench/peers","type":"dev.outrelay.bench","datacontenttype":"application/json","data":{"at":1764301234567890123,"pad":"` + strings.Repeat("x", 64) + `"}}}`)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	var o schemas.Object
	var arena schemas.Arena
	for n := 0; b.Loop(); n++ {
		if n%64 == 0 {
			arena.Reset()
		}
		o.Read(message, "event")
		if _, ok, err := arena.ParseWithin(&o); !ok || err != nil {
			b.Fatal(err)
		}
	}
}
