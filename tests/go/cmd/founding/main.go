// Command founding says why etcd 3.7.1 refuses to found or join a cluster.
//
// It takes etcd's flags for that, and prints on stdout the reason, or "started" if etcd had none.
// Ports and folder are its own. It must never judge by itself: what it prints is what etcd says.
package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	reason, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "founding:", err)
		os.Exit(1)
	}
	fmt.Println(reason)
}

func run() (string, error) {
	c := embed.NewConfig()
	flag.StringVar(&c.Name, "name", embed.DefaultName, "member name")
	flag.StringVar(&c.InitialCluster, "initial-cluster", "", "name=url,...")
	flag.StringVar(&c.ClusterState, "initial-cluster-state", embed.ClusterStateFlagNew, "new or existing")
	flag.IntVar(&c.MaxLearners, "max-learners", 1, "learners allowed")
	advertised := flag.String("initial-advertise-peer-urls", "http://localhost:2380", "one peer URL")
	flag.Parse()

	peer, err := url.Parse(*advertised)
	if err != nil {
		return "", err
	}
	c.AdvertisePeerUrls = []url.URL{*peer}
	anywhere := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenPeerUrls, c.ListenClientUrls = []url.URL{anywhere}, []url.URL{anywhere}
	c.LogLevel = "panic"
	if c.Dir, err = os.MkdirTemp("", "founding-*"); err != nil {
		return "", err
	}
	defer os.RemoveAll(c.Dir)
	member, err := embed.StartEtcd(c)
	if err != nil {
		return err.Error(), nil
	}
	member.Close()
	return "started", nil
}
