package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// Key is a key of callers, with the name of its secret. It does not print.
type Key struct {
	Name  string
	Value []byte
}

// Format prints the name and a placeholder, for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.Name + ":" + redacted)) }

// LogValue returns the name and a placeholder.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.Name + ":" + redacted) }

// MarshalText returns the name and a placeholder.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.Name + ":" + redacted), nil }

// Keys are the keys of one kind of callers. They are read on first use, again after a minute, and when a caller's
// evidence matches no key. In the last ten seconds of that minute, a request starts the next read in the background,
// so that no request waits for it. The minute is the time in which a key that an operator disables is refused by every
// instance, without a restart. Key Vault returns the value of an expired secret; Keys drops it. Evidence that matches
// no key causes at most one read in five minutes.
type Keys struct {
	vault  *Vault
	names  []string
	decode func(value string) ([]byte, error)

	reads singleflight.Group[struct{}]

	mu           sync.Mutex
	known        map[string]knownKey
	err          error     // of a key that is not known
	startedAt    time.Time // when the last read started: its values may be as old
	endedAt      time.Time // when that read ended
	readNext     time.Time // when the next read is due
	mismatchAt   time.Time // when a read started because evidence matched no key
	backgroundAt time.Time // when a read started in the background
	reading      bool      // a request waits: from the decision to read until the end of the read
	waitUntil    time.Time // requests wait for that read so long, if the known keys may be used without it
}

const (
	keyTTL             = time.Minute      // a key is read again, so that a disabled key is refused within it
	refreshAhead       = 10 * time.Second // before keyTTL ends, a request starts a read in the background
	refreshWait        = 2 * time.Second  // requests wait for a read, if the known keys may be used without it
	refreshAfter       = time.Hour        // known keys are not used without waiting for the vault
	maxStale           = 24 * time.Hour   // a key is used while the vault is down
	minRefreshInterval = 5 * time.Minute  // the least time between two reads because evidence matched no key
	failureTTL         = 5 * time.Second  // a failure is not retried before, so that many callers cause one attempt
	partialTTL         = 30 * time.Second // likewise, if some of several keys could be read
)

type knownKey struct {
	Key
	readAt  time.Time
	expires time.Time // zero: never
}

// isExpired reports whether a secret that expires at that time has done so.
func isExpired(expires, now time.Time) bool { return !expires.IsZero() && !now.Before(expires) }

// Keys returns the keys in the secrets of those names, as decode reads them. It makes no request. An error of decode is
// shown in the log: it must not have the value in it.
func (v *Vault) Keys(decode func(value string) ([]byte, error), names ...string) *Keys {
	return &Keys{vault: v, names: names, decode: decode, known: map[string]knownKey{}}
}

// Current returns the keys. Its error, an *upstream.Error, is about a key that could not be read and is not known from
// before; the others are there beside it.
func (k *Keys) Current(ctx context.Context) ([]Key, error) {
	now := time.Now()
	k.mu.Lock()
	age := now.Sub(k.startedAt)
	due, usable := !now.Before(k.readNext), len(k.known) > 0 && age < refreshAfter
	background := !due && age >= keyTTL-refreshAhead && now.Sub(k.backgroundAt) >= failureTTL
	if background {
		k.backgroundAt = now
	}
	if due && usable && !k.reading {
		k.beginReading(now)
	}
	until := k.waitUntil
	waits := due && (!usable || now.Before(until))
	k.mu.Unlock()
	if background {
		k.reads.Start(ctx, "", k.readIfDue(now))
	}
	switch {
	case !waits:
		return k.knownKeys()
	case !usable:
		return k.awaitRead(ctx, now)
	}
	// A vault that hangs must not hold the requests of callers whose keys are known.
	limited, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	keys, err := k.awaitRead(limited, now)
	if keys == nil && limited.Err() != nil && ctx.Err() == nil {
		return k.knownKeys()
	}
	return keys, err
}

// Refresh is Current for a caller whose evidence matches none of the keys: it reads them again, unless it did so lately
// for the same reason.
func (k *Keys) Refresh(ctx context.Context) ([]Key, error) {
	now := time.Now()
	k.mu.Lock()
	waits := k.reading || now.Sub(k.mismatchAt) >= minRefreshInterval
	if waits && !k.reading {
		k.mismatchAt = now
		k.beginReading(now)
	}
	k.mu.Unlock()
	if waits {
		return k.awaitRead(ctx, now)
	}
	return k.Current(ctx)
}

// beginReading is called with the lock held, by the request that reads keys at that time.
func (k *Keys) beginReading(now time.Time) { k.reading, k.waitUntil = true, now.Add(refreshWait) }

// knownKeys returns the keys of the last read that have not expired.
func (k *Keys) knownKeys() ([]Key, error) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := make([]Key, 0, len(k.names))
	for _, name := range k.names {
		if key, ok := k.known[name]; ok && !isExpired(key.expires, now) {
			keys = append(keys, key.Key)
		}
	}
	return keys, k.err
}

// awaitRead reads all keys, or waits for a running read. They were found to be due at the time asked. A running read
// may have values from long before: Lambda freezes a process between requests.
func (k *Keys) awaitRead(ctx context.Context, asked time.Time) ([]Key, error) {
	_, err := k.reads.Do(ctx, "", k.readIfDue(asked))
	if err == nil && k.isTooOld(asked) {
		_, err = k.reads.Do(ctx, "", k.readIfDue(asked))
	}
	if err == nil || ctx.Err() == nil { // it has ended, if by a panic
		k.mu.Lock()
		k.reading = false
		k.mu.Unlock()
	}
	if err != nil {
		return nil, upstream.Transport(upstream.Vault, err)
	}
	return k.knownKeys()
}

// readIfDue returns the work of reading all keys, unless a read of newer values ended after the time asked.
func (k *Keys) readIfDue(asked time.Time) func(context.Context) (struct{}, error) {
	return func(ctx context.Context) (struct{}, error) {
		k.mu.Lock()
		done := k.endedAt.After(asked)
		k.mu.Unlock()
		if !done || k.isTooOld(asked) {
			k.readKeys(ctx)
		}
		return struct{}{}, nil
	}
}

// isTooOld reports whether the values of the last read were due again at the time asked.
func (k *Keys) isTooOld(asked time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return asked.Sub(k.startedAt) >= keyTTL
}

// readKeys reads all keys at the same time and stores the result.
func (k *Keys) readKeys(ctx context.Context) {
	type outcome struct {
		value   []byte
		expires time.Time
		err     error
	}
	outcomes, started := make([]outcome, len(k.names)), time.Now()
	var running sync.WaitGroup
	for i, name := range k.names {
		running.Go(func() {
			secret, err := k.vault.Secret(ctx, name)
			if err == nil {
				outcomes[i].expires = secret.Expires
				outcomes[i].value, err = k.decode(secret.value)
				switch {
				case err != nil:
					err = Invalid(name, "is unusable: "+err.Error())
				case isExpired(secret.Expires, time.Now()):
					err = Invalid(name, "has expired")
				}
			}
			outcomes[i].err = err
		})
	}
	running.Wait()

	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.reading, k.startedAt, k.endedAt, k.err = false, started, now, nil
	failed := 0
	for i, name := range k.names {
		err := outcomes[i].err
		if err == nil {
			k.known[name] = knownKey{Key{name, outcomes[i].value}, started, outcomes[i].expires}
			continue
		}
		failed++
		old, known := k.known[name]
		keep := known && KeepsSecret(err) && now.Sub(old.readAt) < maxStale && !isExpired(old.expires, now)
		if !keep {
			delete(k.known, name)
			k.err = worseError(k.err, err)
		}
		k.vault.options.Log.WarnContext(ctx, "a caller's key could not be read", slog.String("secret", name),
			slog.Bool("used_on", keep), slog.Any("error", err))
	}
	switch {
	case failed == 0:
		k.readNext = started.Add(keyTTL)
	case upstream.WarmUp(ctx):
		k.readNext = now
	case len(k.known) > 0:
		k.readNext = now.Add(partialTTL)
	default:
		k.readNext = now.Add(failureTTL)
	}
	for _, key := range k.known {
		if !key.expires.IsZero() && key.expires.Before(k.readNext) {
			k.readNext = key.expires
		}
	}
}

// worseError returns the more important of two errors for evidence that fits no key: the transient one, because the
// missing key may be the right one. Of two equal ones it returns the first.
func worseError(a, b error) error {
	if a == nil {
		return b
	}
	first, ok := errors.AsType[*upstream.Error](a)
	if ok && !KeepsSecret(first) && KeepsSecret(b) {
		return b
	}
	return a
}
