// Command walk takes etcd's Go client through the things every program does with it: list the
// members, put, get, a transaction, a watch that sees both writes, and a lease that lives while it
// is kept alive and expires when that stops. It prints each step and exits with 1 at the first
// answer that is not what etcd would give.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// stepTimeout bounds every step but the lease, whose own time to live is longer.
const stepTimeout = 10 * time.Second

// leaseSeconds is the smallest lease etcd grants with its default election timeout.
const leaseSeconds = 2

// renewals is how many answers the lease must get: more than its time to live is spent on them.
const renewals = 5

func main() {
	endpoints := flag.String("endpoints", "localhost:2379", "comma-separated endpoints")
	flag.Parse()
	if err := walk(strings.Split(*endpoints, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "walk:", err)
		os.Exit(1)
	}
	fmt.Println("walk: all steps passed")
}

func walk(endpoints []string) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	if err != nil {
		return fmt.Errorf("new client: %w", err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	members, err := client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("member list: %w", err)
	}
	fmt.Println("members:", members.Members)
	if len(members.Members) == 0 || members.Header.ClusterId == 0 || members.Header.MemberId == 0 {
		return fmt.Errorf("member list: want members and a filled header, got %v", members)
	}

	if err := keysAndWatch(client); err != nil {
		return err
	}
	return lease(client)
}

func keysAndWatch(client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	if _, err := client.Delete(ctx, "walk/", clientv3.WithPrefix()); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	watch := client.Watch(ctx, "walk/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if created, ok := <-watch; !ok || !created.Created {
		return fmt.Errorf("watch: want created, got %+v", created)
	}
	fmt.Println("watch: created")

	put, err := client.Put(ctx, "walk/a", "one")
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	fmt.Println("put: revision", put.Header.Revision)

	got, err := client.Get(ctx, "walk/a")
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if got.Count != 1 || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "one" || got.Kvs[0].Version != 1 ||
		got.Kvs[0].ModRevision != put.Header.Revision {
		return fmt.Errorf("get: want one at revision %d, got %v", put.Header.Revision, got)
	}
	fmt.Println("get:", got.Kvs[0])

	modified := clientv3.Compare(clientv3.ModRevision("walk/a"), "=", put.Header.Revision)
	txn, err := client.Txn(ctx).If(modified).Then(clientv3.OpPut("walk/a", "two"), clientv3.OpGet("walk/a")).
		Else(clientv3.OpGet("walk/a")).Commit()
	if err != nil {
		return fmt.Errorf("txn: %w", err)
	}
	if !txn.Succeeded || len(txn.Responses) != 2 || txn.Header.Revision != put.Header.Revision+1 {
		return fmt.Errorf("txn: want success with two responses at revision %d, got %v", put.Header.Revision+1, txn)
	}
	if seen := txn.Responses[1].GetResponseRange(); len(seen.Kvs) != 1 || string(seen.Kvs[0].Value) != "two" {
		return fmt.Errorf("txn: the range after the put must see it, got %v", seen)
	}
	fmt.Println("txn: succeeded at revision", txn.Header.Revision)

	var events []*clientv3.Event
	for len(events) < 2 {
		response, ok := <-watch
		if !ok || response.Err() != nil {
			return fmt.Errorf("watch: ended early: %v", response.Err())
		}
		events = append(events, response.Events...)
	}
	for i, want := range []string{"one", "two"} {
		revision := put.Header.Revision + int64(i)
		if !bytes.Equal(events[i].Kv.Value, []byte(want)) || events[i].Kv.ModRevision != revision {
			return fmt.Errorf("watch: want %q at revision %d, got %v", want, revision, events[i])
		}
		fmt.Println("watch: saw", events[i].Type, events[i].Kv)
	}
	return nil
}

func lease(client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*stepTimeout)
	defer cancel()
	granted, err := client.Grant(ctx, leaseSeconds)
	if err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	put, err := client.Put(ctx, "walk/leased", "alive", clientv3.WithLease(granted.ID))
	if err != nil {
		return fmt.Errorf("put with lease: %w", err)
	}
	fmt.Printf("lease: %x granted for %d s\n", granted.ID, granted.TTL)
	watch := client.Watch(ctx, "walk/leased", clientv3.WithRev(put.Header.Revision+1))

	keepCtx, stopKeeping := context.WithCancel(ctx)
	defer stopKeeping()
	answers, err := client.KeepAlive(keepCtx, granted.ID)
	if err != nil {
		return fmt.Errorf("keepalive: %w", err)
	}
	var lastRenewal time.Time
	for n := range renewals {
		answer, ok := <-answers
		if !ok || answer.TTL != granted.TTL {
			return fmt.Errorf("keepalive: want TTL %d, got %v", granted.TTL, answer)
		}
		lastRenewal = time.Now()
		fmt.Printf("lease: renewal %d\n", n+1)
	}
	left, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return fmt.Errorf("time to live: %w", err)
	}
	if left.GrantedTTL != granted.TTL || len(left.Keys) != 1 || string(left.Keys[0]) != "walk/leased" {
		return fmt.Errorf("time to live: want walk/leased for %d s, got %v", granted.TTL, left)
	}

	stopKeeping()
	response, ok := <-watch
	if !ok || response.Err() != nil || len(response.Events) != 1 || response.Events[0].Type != clientv3.EventTypeDelete {
		return fmt.Errorf("lease: want the key deleted, got %+v", response)
	}
	// One renewal may have been on its way when the keepalive stopped, so only the lower bound is exact.
	if lived := time.Since(lastRenewal); lived < leaseSeconds*time.Second {
		return fmt.Errorf("lease: expired %v after its last renewal, before its time to live", lived)
	}
	fmt.Println("lease: expired after the keepalive stopped")
	gone, err := client.TimeToLive(ctx, granted.ID)
	if err != nil || gone.TTL != -1 {
		return fmt.Errorf("time to live of an expired lease: want -1, got %v, %v", gone, err)
	}
	return nil
}
