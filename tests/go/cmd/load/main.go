// Command load is etcd's Go client under the load that `kvorum-bench compare-clients` measures; it has a twin for every
// client that is compared. It is used as
//
//	load ENDPOINTS CASE SECONDS CONCURRENCY
//
// and prints `ready` when it is set up, `begin` when it begins to count, and `end` with what it counted. It then waits for
// the end of its stdin, so that its CPU time can be read. It must do what a program with this client does, and no more.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	keys       = 10_000
	keyStep    = 7_919
	valueBytes = 256
	watchedKey = "load/watched"
	// callTimeout bounds every request, in every program that is compared.
	callTimeout = 5 * time.Second
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func run(arguments []string) error {
	if len(arguments) != 4 {
		return fmt.Errorf("usage: load ENDPOINTS CASE SECONDS CONCURRENCY")
	}
	seconds, err := strconv.ParseFloat(arguments[2], 64)
	if err != nil {
		return err
	}
	concurrency, err := strconv.Atoi(arguments[3])
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(arguments[0], ","),
		DialTimeout: callTimeout,
	})
	if err != nil {
		return err
	}
	length := time.Duration(seconds * float64(time.Second))
	switch arguments[1] {
	case "put":
		return closedLoop(put(client), length, concurrency)
	case "get":
		return closedLoop(get(client), length, concurrency)
	case "watch":
		return watch(client, length, concurrency)
	case "failover-put":
		return failover(put(client), length)
	case "failover-get":
		return failover(get(client), length)
	}
	return fmt.Errorf("no case %q", arguments[1])
}

type call func(number int) error

func keyOf(number int) string {
	return fmt.Sprintf("load/%08d", number*keyStep%keys)
}

func put(client *clientv3.Client) call {
	value := string(bytes.Repeat([]byte{'v'}, valueBytes))
	return func(number int) error {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		_, err := client.Put(ctx, keyOf(number), value)
		return err
	}
}

func get(client *clientv3.Client) call {
	return func(number int) error {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		_, err := client.Get(ctx, keyOf(number))
		return err
	}
}

// closedLoop keeps `concurrency` requests under way: a while unrecorded, then for `length`.
func closedLoop(request call, length time.Duration, concurrency int) error {
	if err := request(0); err != nil {
		return err
	}
	fmt.Println("ready")
	var recording, stopping atomic.Bool
	var group sync.WaitGroup
	latencies := make([][]uint32, concurrency)
	failures := make([]error, concurrency)
	for worker := range concurrency {
		group.Add(1)
		go func() {
			defer group.Done()
			for number := worker; !stopping.Load(); number += concurrency {
				began := time.Now()
				if err := request(number); err != nil {
					failures[worker] = err
					return
				}
				if recording.Load() {
					latencies[worker] = append(latencies[worker], uint32(time.Since(began).Microseconds()))
				}
			}
		}()
	}
	time.Sleep(warmUp(length))
	fmt.Println("begin")
	began := time.Now()
	recording.Store(true)
	time.Sleep(length)
	recording.Store(false)
	elapsed := time.Since(began)
	stopping.Store(true)
	group.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	all := slices.Concat(latencies...)
	slices.Sort(all)
	if len(all) == 0 {
		return fmt.Errorf("nothing was answered")
	}
	fmt.Printf("end count=%d seconds=%f p50_us=%d p99_us=%d\n",
		len(all), elapsed.Seconds(), all[len(all)/2], all[len(all)*99/100])
	return nil
}

// watch counts the events of `watches` watches of one key.
func watch(client *clientv3.Client, length time.Duration, watches int) error {
	var events atomic.Int64
	for range watches {
		answers := client.Watch(context.Background(), watchedKey, clientv3.WithCreatedNotify())
		if created, ok := <-answers; !ok || !created.Created {
			return fmt.Errorf("a watch was not created: %v", created.Err())
		}
		go func() {
			for answer := range answers {
				events.Add(int64(len(answer.Events)))
			}
		}()
	}
	fmt.Println("ready")
	time.Sleep(warmUp(length))
	fmt.Println("begin")
	before, began := events.Load(), time.Now()
	time.Sleep(length)
	count, elapsed := events.Load()-before, time.Since(began)
	fmt.Printf("end count=%d seconds=%f\n", count, elapsed.Seconds())
	return nil
}

// failover makes one request at a time while members die, and says how long nothing succeeded at most.
func failover(request call, length time.Duration) error {
	for number := range 100 {
		if err := request(number); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	fmt.Println("begin")
	began := time.Now()
	last, longest, count, failed := began, time.Duration(0), 0, 0
	for number := 0; time.Since(began) < length; number++ {
		if err := request(number); err != nil {
			failed++
			continue
		}
		count++
		longest = max(longest, time.Since(last))
		last = time.Now()
	}
	longest = max(longest, time.Since(last))
	fmt.Printf("end count=%d seconds=%f failed=%d longest_us=%d\n",
		count, time.Since(began).Seconds(), failed, longest.Microseconds())
	return nil
}

func warmUp(length time.Duration) time.Duration {
	return min(length/4, time.Second)
}
