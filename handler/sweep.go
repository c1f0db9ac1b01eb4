package handler

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/internal/upstream"
)

// Sweep is what a sweep may do.
type Sweep struct {
	GroupTag     string // of the devices that are meant, where an event names none; "" for none
	MaxDevices   int    // a sweep that finds more does nothing
	MinInventory int    // likewise one that finds fewer devices in all: what Graph tells may be a part
	Apply        bool   // false makes every sweep a dry run
}

// Report is what became of a sweep.
type Report struct {
	Code       Code   `json:"code"`
	GroupTag   string `json:"groupTag"`
	DryRun     bool   `json:"dryRun"`
	Inventory  int    `json:"inventory"`  // devices in Intune, as far as they were looked at
	Tagged     int    `json:"tagged"`     // of those, devices with the group tag
	Unknown    int    `json:"unknown"`    // of the tagged, devices that do not show whether they carry an account
	Matching   int    `json:"matching"`   // of the tagged, devices that carry one
	Succeeded  int    `json:"succeeded"`  // of the matching, devices that were done, or would have been
	Failed     int    `json:"failed"`     // devices that were not; each has a record of its own
	HandedBack int    `json:"handedBack"` // devices that are left for the next run
}

const (
	// pace is how many devices a second a sweep acts on: below Graph's limit for an app, 100 writes in 20 seconds
	// (https://learn.microsoft.com/graph/throttling-limits#intune-service-limits).
	pace = 4
	// slowest is what throttling can bring the pace down to.
	slowest = 0.5
	// patience is how many times in a row Graph may throttle a sweep, or do none of its devices, before it gives up.
	patience = 3
	// reserve is the time before the end of its time in which a sweep begins nothing new.
	reserve = 15 * time.Second
)

// sweep takes the resource account off the devices of a group tag. It reads the whole inventory before it touches
// anything: what breaks off on the way, or looks wrong as a whole, must not steer a change.
//
// A run that does not come to its end is safe to repeat. The next one reads the state anew and goes on with what is left.
func (h *Handler) sweep(ctx context.Context, rec *record, c command) (any, error) {
	report := Report{GroupTag: c.groupTag, DryRun: c.dryRun || !h.Sweep.Apply}
	if report.GroupTag == "" {
		report.GroupTag = h.Sweep.GroupTag
	}
	rec.request.several, rec.request.dryRun = true, report.DryRun
	switch {
	case report.GroupTag == "":
		return h.swept(ctx, rec, report, sweepTagMissing, nil)
	case !h.Policy.Allows(report.GroupTag):
		return h.swept(ctx, rec, report, policyDenied, nil)
	}
	matching, err := h.survey(ctx, &report)
	switch {
	case err != nil:
		report.HandedBack = report.Matching
		return h.swept(ctx, rec, report, outcome(err), err)
	case report.Matching > h.Sweep.MaxDevices:
		report.HandedBack = report.Matching
		return h.swept(ctx, rec, report, sweepTooMany, nil)
	case report.Inventory < h.Sweep.MinInventory:
		report.HandedBack = report.Matching
		return h.swept(ctx, rec, report, sweepInventorySmall, nil)
	case report.DryRun:
		for _, d := range matching {
			d.code = WouldUnassign
			h.log(ctx, rec, d)
		}
		report.Succeeded = len(matching)
		return h.swept(ctx, rec, report, swept, nil)
	}
	code, err := h.apply(ctx, rec, matching, &report)
	return h.swept(ctx, rec, report, code, err)
}

// survey counts the inventory into report and returns the devices that are to be acted on, of which it keeps no more than
// a sweep may act on.
func (h *Handler) survey(ctx context.Context, report *Report) ([]*device, error) {
	var matching []*device
	for found, err := range h.Devices.All(ctx) {
		if err != nil {
			return nil, err
		}
		report.Inventory++
		if found.GroupTag != report.GroupTag {
			continue
		}
		report.Tagged++
		switch {
		case found.Account.Unknown:
			report.Unknown++
		case found.Account.Assigned():
			report.Matching++
			if report.Matching <= h.Sweep.MaxDevices {
				matching = append(matching, &device{known: found, read: true})
			}
		}
	}
	return matching, nil
}

// apply acts on the devices, twenty at a time and at the pace that Graph takes. It returns the code of the sweep, and the
// error that ended it early if there is one.
func (h *Handler) apply(ctx context.Context, rec *record, devices []*device, report *Report) (Code, error) {
	limiter := rate.NewLimiter(pace, maxDevices)
	var last error // that made a device be handed back
	tired := 0
	for len(devices) > 0 {
		group := devices[:min(maxDevices, len(devices))]
		if !pause(ctx, limiter.ReserveN(time.Now(), len(group)).Delay()) {
			report.HandedBack += len(devices)
			return sweepIncomplete, last
		}
		devices = devices[len(group):]
		part := *rec
		part.trace, part.start = &upstream.Trace{}, time.Now()
		h.unassignAll(upstream.WithTrace(ctx, part.trace), group)
		rec.trace.Add(part.trace)
		slower, progress, stop := false, false, error(nil)
		for _, d := range group {
			code, status, err := d.end()
			switch {
			case err == nil:
				report.Succeeded++
				progress = true
			case retryable(status):
				report.HandedBack++
				last, slower = err, slower || throttled(err)
			default:
				report.Failed++
				progress = true
				if status == http.StatusFailedDependency { // what is wrong with this one is wrong with all
					stop, last = err, err
				}
			}
			part.code = code
			h.log(ctx, &part, d)
		}
		switch {
		case stop != nil:
			report.HandedBack += len(devices)
			return outcome(stop), stop
		case progress && !slower:
			tired = 0
			continue
		}
		if tired++; tired == patience {
			report.HandedBack += len(devices)
			return sweepIncomplete, last
		}
		limiter.SetLimit(max(limiter.Limit()/2, slowest))
		if !pause(ctx, retryAfter(last)) {
			report.HandedBack += len(devices)
			return sweepIncomplete, last
		}
	}
	if report.HandedBack > 0 {
		return sweepIncomplete, last
	}
	return swept, nil
}

// pause waits for d, and reports whether there is time left after it.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d+reserve {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// swept ends a sweep with its one record.
func (h *Handler) swept(ctx context.Context, rec *record, report Report, code Code, err error) (any, error) {
	report.Code = code
	level := slog.LevelInfo
	failed := &EventError{Code: code, Retryable: retryable(rows[code].status), Throttled: throttled(err)}
	switch code {
	case swept:
		failed = nil
		if report.Failed > 0 {
			level = slog.LevelError
		}
	case sweepIncomplete:
		failed.Retryable, level = true, slog.LevelWarn
	default:
		level = slog.LevelError
	}
	attrs := append(rec.origin(code),
		slog.String("group_tag", report.GroupTag), slog.Bool("dry_run", report.DryRun),
		slog.Int("inventory", report.Inventory), slog.Int("tagged", report.Tagged), slog.Int("unknown", report.Unknown), slog.Int("matching", report.Matching),
		slog.Int("succeeded", report.Succeeded), slog.Int("failed", report.Failed), slog.Int("handed_back", report.HandedBack),
		slog.Int("attempts", rec.trace.Tries()), milliseconds("total_ms", time.Since(rec.start)),
	)
	if len(rec.request.context) > 0 {
		attrs = append(attrs, slog.Any("context", rec.request.context))
	}
	if err != nil {
		attrs = append(attrs, reason(err))
	}
	h.Log.LogAttrs(ctx, level, "sweep", attrs...)
	if failed != nil {
		return report, failed
	}
	return report, nil
}
