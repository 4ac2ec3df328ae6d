// Command oracle runs one etcd 3.7.1 member, built from etcd's public embed package, as the
// reference that the interoperability tests compare a server with.
//
// It chooses free ports on 127.0.0.1, prints "ready <client-url>" on stdout once the member
// serves clients, and stops cleanly on SIGTERM, on interrupt, or when its stdin closes. It must
// never add behaviour of its own: what it answers is what etcd answers.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// startAttempts bounds how often other ports are tried when a chosen one was taken meanwhile.
const startAttempts = 5

// readyTimeout bounds the wait for the member to elect itself and serve.
const readyTimeout = 60 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

type options struct {
	dataDir         string
	name            string
	logLevel        string
	heartbeat       uint
	election        uint
	maxTxnOps       uint
	maxRequestBytes uint
	quota           int64
	snapshotCount   uint64
	compactionBatch int
	unsafeNoFsync   bool
	watchProgress   time.Duration
	keepaliveGap    time.Duration
	keepaliveEvery  time.Duration
	keepaliveWait   time.Duration
	ignoreStdin     bool
}

func run() error {
	var o options
	flag.StringVar(&o.dataDir, "data-dir", "", "data directory; a temporary one, removed at exit, when empty")
	flag.StringVar(&o.name, "name", embed.DefaultName, "member name")
	flag.StringVar(&o.logLevel, "log-level", "panic", "etcd's log level; logs go to stderr")
	flag.UintVar(&o.heartbeat, "heartbeat-interval", 100, "milliseconds")
	flag.UintVar(&o.election, "election-timeout", 1000, "milliseconds")
	flag.UintVar(&o.maxTxnOps, "max-txn-ops", embed.DefaultMaxTxnOps, "operations in a transaction")
	flag.UintVar(&o.maxRequestBytes, "max-request-bytes", embed.DefaultMaxRequestBytes, "bytes of a request")
	flag.Int64Var(&o.quota, "quota-backend-bytes", 0, "backend quota in bytes; 0 is etcd's default")
	flag.Uint64Var(&o.snapshotCount, "snapshot-count", 0, "applied entries between snapshots; 0 is etcd's default")
	flag.IntVar(&o.compactionBatch, "compaction-batch-limit", 0, "revisions deleted in one step; 0 is etcd's default")
	flag.BoolVar(&o.unsafeNoFsync, "unsafe-no-fsync", false, "do not sync files")
	flag.DurationVar(&o.watchProgress, "watch-progress-notify-interval", 0, "0 is etcd's default")
	flag.DurationVar(&o.keepaliveGap, "grpc-keepalive-min-time", embed.DefaultGRPCKeepAliveMinTime, "between pings of a client")
	flag.DurationVar(&o.keepaliveEvery, "grpc-keepalive-interval", embed.DefaultGRPCKeepAliveInterval, "silence before a ping")
	flag.DurationVar(&o.keepaliveWait, "grpc-keepalive-timeout", embed.DefaultGRPCKeepAliveTimeout, "silence after a ping")
	flag.BoolVar(&o.ignoreStdin, "ignore-stdin", false, "do not stop when stdin closes")
	flag.Parse()
	if flag.NArg() != 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}

	if o.dataDir == "" {
		dir, err := os.MkdirTemp("", "oracle-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.dataDir = dir
	}

	stop := make(chan struct{}, 2)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() { <-signals; stop <- struct{}{} }()
	if !o.ignoreStdin {
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); stop <- struct{}{} }()
	}

	member, clientURL, err := start(&o)
	if err != nil {
		return err
	}
	defer member.Close()
	select {
	case <-member.Server.ReadyNotify():
	case err := <-member.Err():
		return err
	case <-stop:
		return nil
	case <-time.After(readyTimeout):
		return errors.New("the member did not become ready")
	}
	fmt.Println("ready", clientURL)

	select {
	case <-stop:
		return nil
	case err := <-member.Err():
		return err
	}
}

// start starts a member on ports that were free a moment ago, and tries others when they no longer are.
func start(o *options) (*embed.Etcd, string, error) {
	var last error
	for range startAttempts {
		client, err := freeURL()
		if err != nil {
			return nil, "", err
		}
		peer, err := freeURL()
		if err != nil {
			return nil, "", err
		}
		member, err := embed.StartEtcd(config(o, client, peer))
		if err == nil {
			return member, client.String(), nil
		}
		if !strings.Contains(err.Error(), "address already in use") {
			return nil, "", err
		}
		last = err
	}
	return nil, "", last
}

func config(o *options, client, peer *url.URL) *embed.Config {
	c := embed.NewConfig()
	c.Name = o.name
	c.Dir = o.dataDir
	c.LogLevel = o.logLevel
	c.LogOutputs = []string{embed.StdErrLogOutput}
	c.TickMs = o.heartbeat
	c.ElectionMs = o.election
	c.MaxTxnOps = o.maxTxnOps
	c.MaxRequestBytes = o.maxRequestBytes
	c.QuotaBackendBytes = o.quota
	c.UnsafeNoFsync = o.unsafeNoFsync
	c.GRPCKeepAliveMinTime = o.keepaliveGap
	c.GRPCKeepAliveInterval = o.keepaliveEvery
	c.GRPCKeepAliveTimeout = o.keepaliveWait
	if o.snapshotCount != 0 {
		c.SnapshotCount = o.snapshotCount
	}
	if o.compactionBatch != 0 {
		c.CompactionBatchLimit = o.compactionBatch
	}
	if o.watchProgress != 0 {
		c.WatchProgressNotifyInterval = o.watchProgress
	}
	c.ListenClientUrls = []url.URL{*client}
	c.AdvertiseClientUrls = []url.URL{*client}
	c.ListenPeerUrls = []url.URL{*peer}
	c.AdvertisePeerUrls = []url.URL{*peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	return c
}

func freeURL() (*url.URL, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	return &url.URL{Scheme: "http", Host: listener.Addr().String()}, nil
}
