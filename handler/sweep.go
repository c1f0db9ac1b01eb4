package handler

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// Sweep has the settings of sweeps.
type Sweep struct {
	GroupTag     string // of the devices to change, for events that name none; "" for no default
	MaxDevices   int    // a sweep that finds more changes nothing
	MinInventory int    // a sweep that finds fewer devices in all changes nothing: Graph's list may be incomplete
	Apply        bool   // false makes every sweep a dry run
}

// Report is the result of a sweep.
type Report struct {
	Code       Code   `json:"code"`
	GroupTag   string `json:"groupTag"`
	DryRun     bool   `json:"dryRun"`
	Inventory  int    `json:"inventory"`  // devices in Intune, as far as the list was read
	Tagged     int    `json:"tagged"`     // devices with the group tag
	Unknown    int    `json:"unknown"`    // tagged devices that do not show whether they carry an account
	Matching   int    `json:"matching"`   // tagged devices that carry an account
	Succeeded  int    `json:"succeeded"`  // matching devices that were changed, or would be
	Failed     int    `json:"failed"`     // matching devices that failed permanently; each has a record
	HandedBack int    `json:"handedBack"` // matching devices left for the next run
}

// sweepReserve is the time before its deadline in which a sweep takes no permits.
const sweepReserve = 15 * time.Second

// runSweep removes the resource account from the devices of a group tag. It reads the whole inventory before it changes a
// device: a list that breaks off, or looks wrong as a whole, must not steer a change.
//
// A sweep that does not complete is safe to repeat: the next one reads the state anew and continues with the rest.
func (h *Handler) runSweep(ctx context.Context, o *origin, w *work, args sweepArgs) (any, error) {
	report := Report{GroupTag: cmp.Or(args.groupTag, h.Sweep.GroupTag)}
	report.DryRun = args.dryRun || !h.Sweep.Apply || h.Policy.DryRun
	w.dryRun = report.DryRun
	switch {
	case report.GroupTag == "":
		return h.endSweep(ctx, o, w, report, result{code: sweepTagMissing})
	case !h.Policy.AllowsCaller(o.caller.ID, report.GroupTag),
		h.Policy.Callers[o.caller.ID].RequireExpected && !report.DryRun: // a sweep knows no expected account
		return h.endSweep(ctx, o, w, report, result{code: policyDenied})
	}
	matching, err := h.readInventory(ctx, &report)
	report.HandedBack = report.Matching
	switch {
	case err != nil:
		return h.endSweep(ctx, o, w, report, classify(err))
	case report.Matching > h.Sweep.MaxDevices:
		return h.endSweep(ctx, o, w, report, result{code: sweepTooMany})
	case report.Inventory < h.Sweep.MinInventory:
		return h.endSweep(ctx, o, w, report, result{code: sweepInventorySmall})
	}
	if err := h.takeChanges(o, w, matching); err != nil {
		return h.endSweep(ctx, o, w, report, classify(err))
	}
	report.HandedBack = 0
	if !report.DryRun {
		return h.endSweep(ctx, o, w, report, h.unassignGroups(ctx, o, w, matching, &report))
	}
	for _, d := range matching {
		d.result = succeed(WouldUnassign)
		h.writeRecord(ctx, workEntry(o, w, d, 0))
	}
	report.Succeeded = len(matching)
	return h.endSweep(ctx, o, w, report, result{code: swept})
}

// readInventory counts the inventory into report and returns the devices to change, at most as many as a sweep may
// change.
func (h *Handler) readInventory(ctx context.Context, report *Report) ([]*device, error) {
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
				matching = append(matching, &device{state: state{known: found, read: true}})
			}
		}
	}
	return matching, nil
}

// unassignGroups changes the devices in groups, at the pace that Graph accepts. It returns the result of the sweep.
func (h *Handler) unassignGroups(ctx context.Context, o *origin, w *work, devices []*device, report *Report) result {
	taking := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		taking, cancel = context.WithDeadline(ctx, deadline.Add(-sweepReserve))
		defer cancel()
	}
	incomplete := result{code: sweepIncomplete} // with the error of the last device handed back
	for len(devices) > 0 {
		start := time.Now()
		granted := h.Pace.Take(taking, min(maxDevices, len(devices)))
		if granted == 0 {
			report.HandedBack += len(devices)
			return incomplete
		}
		group := devices[:granted]
		devices = devices[granted:]
		part := *o
		part.trace, part.start = &upstream.Trace{RequestID: o.requestID}, time.Now()
		part.trace.Wait(time.Since(start))
		panicked := singleflight.CatchPanic(func() error {
			unassignDevices(upstream.WithTrace(ctx, part.trace), h.Background, group, group)
			return nil
		})
		o.trace.Add(part.trace)
		var stop result // of a device whose fault is the fault of all
		for _, d := range group {
			if panicked != nil { // perhaps after the change: it must have a record
				d.result = classify(panicked)
			}
			switch {
			case d.result.retriesLater(): // at the end, at the new pace
				incomplete.err, incomplete.throttled = d.result.err, true
				d.result = result{}
				devices = append(devices, d)
				continue
			case !d.result.failed():
				report.Succeeded++
			case retryable(d.result.status):
				report.HandedBack++
				incomplete.err = d.result.err
			default:
				report.Failed++
				if d.result.status == http.StatusFailedDependency {
					stop = d.result
				}
			}
			h.writeRecord(ctx, workEntry(&part, w, d, 0))
		}
		if stop.ended() {
			report.HandedBack += len(devices)
			return stop
		}
	}
	if report.HandedBack > 0 {
		return incomplete
	}
	return result{code: swept}
}

// endSweep writes the one record of a sweep and returns its report and error.
func (h *Handler) endSweep(ctx context.Context, o *origin, w *work, report Report, ended result) (any, error) {
	report.Code = ended.code
	level := slog.LevelError
	failed := &EventError{Code: ended.code, Retryable: retryable(ended.status), Throttled: ended.throttled}
	switch {
	case ended.code == sweepIncomplete:
		failed.Retryable, level = true, slog.LevelWarn
	case ended.code == swept && report.Failed == 0:
		level = slog.LevelInfo
	}
	e := o.newEntry("sweep", level, ended.code)
	e.add(
		slog.String("group_tag", report.GroupTag), slog.Bool("dry_run", report.DryRun),
		slog.Int("inventory", report.Inventory), slog.Int("tagged", report.Tagged),
		slog.Int("unknown", report.Unknown), slog.Int("matching", report.Matching),
		slog.Int("succeeded", report.Succeeded), slog.Int("failed", report.Failed),
		slog.Int("handed_back", report.HandedBack),
		slog.Int("attempts", o.trace.Tries()), milliseconds("total_ms", time.Since(o.start)),
	)
	e.addContext(w.context)
	e.addError(ended.err)
	h.writeRecord(ctx, e)
	if ended.code == swept {
		return report, nil
	}
	return report, failed
}
