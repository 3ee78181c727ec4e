; The native driver. driver.py explains the design and fills in what begins with a dollar sign.

$declare_pause
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; What one round of waiting costs is measured with %n rounds.
define void @evonnx_spin(ptr %word, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %more]
  %v = load atomic i64, ptr %word acquire, align 8
  %set = icmp sgt i64 %v, 0
  br i1 %set, label %out, label %more
more:
  $pause
  %i1 = add i64 %i, 1
  %go = icmp slt i64 %i1, %n
  br i1 %go, label %loop, label %out
out:
  ret void
}

; Sleep while *event == old; may return at any time.
define internal void @nap(ptr %team, ptr %event, i32 %old) noinline {
  %ps = getelementptr i8, ptr %team, i64 $TEAM_SYSCALL
  %syscall = load ptr, ptr %ps
  %none = icmp eq ptr %syscall, null
  br i1 %none, label %timed, label %wait
wait:
  %old64 = zext i32 %old to i64
  call i64 (i64, ...) %syscall(i64 $futex, ptr %event, i64 128, i64 %old64, ptr null)
  ret void
timed:
  %pn = getelementptr i8, ptr %team, i64 $TEAM_NAP
  %nanosleep = load ptr, ptr %pn
  %pt = getelementptr i8, ptr %team, i64 $TEAM_NAP_TIME
  call i32 %nanosleep(ptr %pt, ptr null)
  ret void
}

; Return once *word >= target (wrapping): spin, then sleep.
define internal void @await(ptr %team, ptr %word, i64 %target, ptr %event, ptr %sleepers,
                            i64 %spins) {
entry:
  br label %spin
spin:
  %i = phi i64 [0, %entry], [%i1, %again]
  %v = load atomic i64, ptr %word acquire, align 8
  %d = sub i64 %v, %target
  %short = icmp slt i64 %d, 0
  br i1 %short, label %again, label %out
again:
  $pause
  %i1 = add i64 %i, 1
  %go = icmp slt i64 %i1, %spins
  br i1 %go, label %spin, label %slow
slow:
  %e = load atomic i32, ptr %event seq_cst, align 4
  %s0 = atomicrmw add ptr %sleepers, i32 1 seq_cst, align 4
  %w = load atomic i64, ptr %word seq_cst, align 8
  %wd = sub i64 %w, %target
  %still = icmp slt i64 %wd, 0
  br i1 %still, label %sleep, label %awake
sleep:
  call void @nap(ptr %team, ptr %event, i32 %e)
  %s1 = atomicrmw sub ptr %sleepers, i32 1 seq_cst, align 4
  %x = load atomic i64, ptr %word seq_cst, align 8
  %xd = sub i64 %x, %target
  %more = icmp slt i64 %xd, 0
  br i1 %more, label %slow, label %out
awake:
  %s2 = atomicrmw sub ptr %sleepers, i32 1 seq_cst, align 4
  br label %out
out:
  ret void
}

; Wake whoever sleeps for what has just changed.
define internal void @wake(ptr %team, ptr %event, ptr %sleepers) {
  %n = load atomic i32, ptr %sleepers seq_cst, align 4
  %nobody = icmp eq i32 %n, 0
  br i1 %nobody, label %out, label %some
some:
  %e = atomicrmw add ptr %event, i32 1 seq_cst, align 4
  %ps = getelementptr i8, ptr %team, i64 $TEAM_SYSCALL
  %syscall = load ptr, ptr %ps
  %none = icmp eq ptr %syscall, null
  br i1 %none, label %out, label %call
call:
  call i64 (i64, ...) %syscall(i64 $futex, ptr %event, i64 129, i64 2147483647, ptr null)
  br label %out
out:
  ret void
}

; Half of what is left of unit number %unit, which has %limit chunks, but at least one: their
; number in the upper half of the result, the first of them in the lower. -1 if less than %least are
; left; if the first that is left is chunk %idle, one is enough.
define internal i64 @claim(ptr %word, i64 %unit, i64 %limit, i64 %least, i64 %idle) {
entry:
  %fresh = shl i64 %unit, 16
  %first = load atomic i64, ptr %word monotonic, align 8
  br label %try
try:
  %w = phi i64 [%first, %entry], [%seen, %swap]
  %x = sub i64 %w, %fresh
  %old = icmp slt i64 %x, 0
  %next = select i1 %old, i64 0, i64 %x
  %rest = sub i64 %limit, %next
  %stuck = icmp eq i64 %next, %idle
  %enough = select i1 %stuck, i64 1, i64 %least
  %left = icmp sge i64 %rest, %enough
  br i1 %left, label %swap, label %none
swap:
  %more = add i64 %rest, 1
  %take = lshr i64 %more, 1
  %taken = add i64 %next, %take
  %new = add i64 %fresh, %taken
  %r = cmpxchg ptr %word, i64 %w, i64 %new acq_rel acquire, align 8
  %seen = extractvalue {i64, i1} %r, 0
  %ok = extractvalue {i64, i1} %r, 1
  br i1 %ok, label %mine, label %try
mine:
  %upper = shl i64 %take, 32
  %both = or i64 %upper, %next
  ret i64 %both
none:
  ret i64 -1
}

; Report %count chunks of phase number %phase; wake the others if that completes %total.
define internal void @report(ptr %team, ptr %word, i64 %phase, i64 %count, i64 %total) {
entry:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %load, label %out
load:
  %fresh = shl i64 %phase, 16
  %first = load atomic i64, ptr %word monotonic, align 8
  br label %try
try:
  %w = phi i64 [%first, %load], [%seen, %try]
  %x = sub i64 %w, %fresh
  %old = icmp slt i64 %x, 0
  %before = select i1 %old, i64 0, i64 %x
  %after = add i64 %before, %count
  %new = add i64 %fresh, %after
  %r = cmpxchg ptr %word, i64 %w, i64 %new seq_cst seq_cst, align 8
  %seen = extractvalue {i64, i1} %r, 0
  %ok = extractvalue {i64, i1} %r, 1
  br i1 %ok, label %check, label %try
check:
  %complete = icmp eq i64 %after, %total
  br i1 %complete, label %tell, label %out
tell:
  %pe = getelementptr i8, ptr %team, i64 $TEAM_EVENT
  %pz = getelementptr i8, ptr %team, i64 $TEAM_SLEEPERS
  call void @wake(ptr %team, ptr %pe, ptr %pz)
  br label %out
out:
  ret void
}

; One kernel call: resolve the buffers of a row into %bufs and run tiles [begin, end).
define internal void @apply(ptr %row, ptr %bases, ptr %bufs, i64 %scratch, i64 %begin, i64 %end) {
entry:
  %pnb = getelementptr i8, ptr %row, i64 $ROW_BUFFERS
  %nb = load i64, ptr %pnb
  %prefs = getelementptr i8, ptr %row, i64 $ROW_REFS
  %refs = load ptr, ptr %prefs
  %pparams = getelementptr i8, ptr %row, i64 $ROW_PARAMS
  %params = load ptr, ptr %pparams
  %pkernel = getelementptr i8, ptr %row, i64 $ROW_KERNEL
  %kernel = load ptr, ptr %pkernel
  br label %address
address:
  %k = phi i64 [0, %entry], [%k1, %fill]
  %more = icmp slt i64 %k, %nb
  br i1 %more, label %fill, label %run
fill:
  %ref = getelementptr [2 x i64], ptr %refs, i64 %k
  %slot = load i64, ptr %ref
  %poff = getelementptr i64, ptr %ref, i64 1
  %offset = load i64, ptr %poff
  %pbase = getelementptr i64, ptr %bases, i64 %slot
  %base = load i64, ptr %pbase
  %where = add i64 %base, %offset
  %pbuf = getelementptr i64, ptr %bufs, i64 %k
  store i64 %where, ptr %pbuf
  %k1 = add i64 %k, 1
  br label %address
run:
  %plast = getelementptr i64, ptr %bufs, i64 %nb
  store i64 %scratch, ptr %plast
  call void %kernel(ptr %bufs, ptr %params, i64 %begin, i64 %end)
  ret void
}

; %count rows from %row on, all tiles, on this thread.
define internal void @serial(ptr %row0, i64 %count, ptr %bases, ptr %bufs, i64 %scratch) {
entry:
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %step, label %out
step:
  %i = phi i64 [0, %entry], [%i1, %next]
  %row = getelementptr [$ROW_WORDS x i64], ptr %row0, i64 %i
  %ptiles = getelementptr i8, ptr %row, i64 $ROW_TILES
  %tiles = load i64, ptr %ptiles
  %work = icmp sgt i64 %tiles, 0
  br i1 %work, label %run, label %next
run:
  call void @apply(ptr %row, ptr %bases, ptr %bufs, i64 %scratch, i64 0, i64 %tiles)
  br label %next
next:
  %i1 = add i64 %i, 1
  %left = icmp slt i64 %i1, %count
  br i1 %left, label %step, label %out
out:
  ret void
}

; One call on the calling thread alone.
define void @evonnx_run(ptr %call) {
  %psteps = getelementptr i8, ptr %call, i64 $CALL_STEPS
  %steps = load ptr, ptr %psteps
  %pcount = getelementptr i8, ptr %call, i64 $CALL_COUNT
  %count = load i64, ptr %pcount
  %pbases = getelementptr i8, ptr %call, i64 $CALL_BASES
  %bases = load ptr, ptr %pbases
  %pbufs = getelementptr i8, ptr %call, i64 $CALL_PRIVATE
  %bufs = load ptr, ptr %pbufs
  %pshift = getelementptr i8, ptr %call, i64 $CALL_SCRATCH
  %shift = load i64, ptr %pshift
  %from = ptrtoint ptr %bufs to i64
  %scratch = add i64 %from, %shift
  call void @serial(ptr %steps, i64 %count, ptr %bases, ptr %bufs, i64 %scratch)
  ret void
}

; A kernel that reads the clock: its parameters are the address of the C library's clock_gettime, the
; number of the clock, and the address where the time is written.
define void @evonnx_stamp(ptr %bufs, ptr %params, i64 %begin, i64 %end) {
  %read = load ptr, ptr %params
  %pnumber = getelementptr i64, ptr %params, i64 1
  %number = load i64, ptr %pnumber
  %which = trunc i64 %number to i32
  %ptime = getelementptr i64, ptr %params, i64 2
  %time = load ptr, ptr %ptime
  call i32 %read(i32 %which, ptr %time)
  ret void
}

; What is left of part %part of a parallel unit; returns the number of chunks done. Where the owner
; seems to be at it (%patient), nothing is claimed unless an eighth of the part is left.
define internal i64 @part(ptr %row, ptr %claims, i64 %unit, i64 %part, i64 %n, ptr %bases,
                          ptr %bufs, i64 %scratch, i1 %patient) {
entry:
  %pchunks = getelementptr i8, ptr %row, i64 $ROW_CHUNKS
  %chunks = load i64, ptr %pchunks
  %pchunk = getelementptr i8, ptr %row, i64 $ROW_CHUNK
  %size = load i64, ptr %pchunk
  %ptiles = getelementptr i8, ptr %row, i64 $ROW_TILES
  %tiles = load i64, ptr %ptiles
  %lo_n = mul i64 %chunks, %part
  %lo = udiv i64 %lo_n, %n
  %part1 = add i64 %part, 1
  %hi_n = mul i64 %chunks, %part1
  %hi = udiv i64 %hi_n, %n
  %limit = sub i64 %hi, %lo
  %eighth = lshr i64 %limit, 3
  %some = add i64 %eighth, 1
  %least = select i1 %patient, i64 %some, i64 1
  %skip = mul i64 %part, $CLAIM_BYTES
  %word = getelementptr i8, ptr %claims, i64 %skip
  br label %next
next:
  %count = phi i64 [0, %entry], [%count1, %work]
  %idle = phi i64 [-1, %entry], [%after, %work]
  %claimed = call i64 @claim(ptr %word, i64 %unit, i64 %limit, i64 %least, i64 %idle)
  %got = icmp sge i64 %claimed, 0
  br i1 %got, label %work, label %out
work:
  %k = and i64 %claimed, 4294967295
  %take = lshr i64 %claimed, 32
  %after = add i64 %k, %take
  %j = add i64 %lo, %k
  %begin = mul i64 %j, %size
  %length = mul i64 %take, %size
  %stop = add i64 %begin, %length
  %over = icmp sgt i64 %stop, %tiles
  %end = select i1 %over, i64 %tiles, i64 %stop
  call void @apply(ptr %row, ptr %bases, ptr %bufs, i64 %scratch, i64 %begin, i64 %end)
  %count1 = add i64 %count, %take
  br label %next
out:
  ret i64 %count
}

; Rows from %first to before %last, the units of a phase from number %unit0 on, as thread %t of %n:
; its own parts and runs (%own), or those of the others. Returns the number of chunks done.
define internal i64 @units(ptr %call, ptr %ring, i64 %t, i64 %n, i64 %first, i64 %last, i64 %unit0,
                           i1 %own, i1 %patient) noinline {
entry:
  %psteps = getelementptr i8, ptr %call, i64 $CALL_STEPS
  %steps = load ptr, ptr %psteps
  %pbases = getelementptr i8, ptr %call, i64 $CALL_BASES
  %bases = load ptr, ptr %pbases
  %pprivate = getelementptr i8, ptr %call, i64 $CALL_PRIVATE
  %private = load ptr, ptr %pprivate
  %pstride = getelementptr i8, ptr %call, i64 $CALL_STRIDE
  %stride = load i64, ptr %pstride
  %pshift = getelementptr i8, ptr %call, i64 $CALL_SCRATCH
  %shift = load i64, ptr %pshift
  %pmask = getelementptr i8, ptr %call, i64 $CALL_MASK
  %mask = load i64, ptr %pmask
  %skip = mul i64 %t, %stride
  %bufs = getelementptr i8, ptr %private, i64 %skip
  %from = ptrtoint ptr %bufs to i64
  %scratch = add i64 %from, %shift
  %claim_row = mul i64 %n, $CLAIM_BYTES
  br label %loop
loop:
  %i = phi i64 [%first, %entry], [%i1, %advance]
  %unit = phi i64 [%unit0, %entry], [%unit1, %advance]
  %done = phi i64 [0, %entry], [%done1, %advance]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %look, label %out
look:
  %row = getelementptr [$ROW_WORDS x i64], ptr %steps, i64 %i
  %place = and i64 %unit, %mask
  %placeb = mul i64 %place, %claim_row
  %claims = getelementptr i8, ptr %ring, i64 %placeb
  %pflags = getelementptr i8, ptr %row, i64 $ROW_FLAGS
  %flags = load i64, ptr %pflags
  %pbit = and i64 %flags, 1
  %shared = icmp ne i64 %pbit, 0
  br i1 %shared, label %split, label %run

; -- a run of serial steps belongs to the thread of its number in the phase
run:
  %plength = getelementptr i8, ptr %row, i64 $ROW_CHUNKS
  %length = load i64, ptr %plength
  %number = sub i64 %unit, %unit0
  %owner = urem i64 %number, %n
  %ours = icmp eq i64 %owner, %t
  %both = or i1 %ours, %patient
  %steal = xor i1 %both, true
  %take = select i1 %own, i1 %ours, i1 %steal
  br i1 %take, label %ask, label %advance
ask:
  %got = call i64 @claim(ptr %claims, i64 %unit, i64 1, i64 1, i64 -1)
  %mine = icmp sge i64 %got, 0
  br i1 %mine, label %all, label %advance
all:
  call void @serial(ptr %row, i64 %length, ptr %bases, ptr %bufs, i64 %scratch)
  %done_run = add i64 %done, 1
  br label %advance

; -- a step that is split
split:
  br i1 %own, label %ownpart, label %others
ownpart:
  %did0 = call i64 @part(ptr %row, ptr %claims, i64 %unit, i64 %t, i64 %n, ptr %bases, ptr %bufs,
                         i64 %scratch, i1 false)
  %done_own = add i64 %done, %did0
  br label %advance
others:
  %v = phi i64 [1, %split], [%v1, %visit]
  %sum = phi i64 [%done, %split], [%sum1, %visit]
  %again = icmp slt i64 %v, %n
  br i1 %again, label %visit, label %advance
visit:
  %tv = add i64 %t, %v
  %wrap = icmp sge i64 %tv, %n
  %tvn = sub i64 %tv, %n
  %part = select i1 %wrap, i64 %tvn, i64 %tv
  %did = call i64 @part(ptr %row, ptr %claims, i64 %unit, i64 %part, i64 %n, ptr %bases, ptr %bufs,
                        i64 %scratch, i1 %patient)
  %sum1 = add i64 %sum, %did
  %v1 = add i64 %v, 1
  br label %others
advance:
  %rows = phi i64 [%length, %run], [%length, %ask], [%length, %all], [1, %ownpart], [1, %others]
  %done1 = phi i64 [%done, %run], [%done, %ask], [%done_run, %all], [%done_own, %ownpart],
                   [%sum, %others]
  %i1 = add i64 %i, %rows
  %unit1 = add i64 %unit, 1
  br label %loop
out:
  ret i64 %done
}

; Whether *word reaches %target within %rounds rounds.
define internal i1 @soon(ptr %word, i64 %target, i64 %rounds) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %again]
  %v = load atomic i64, ptr %word acquire, align 8
  %d = sub i64 %v, %target
  %short = icmp slt i64 %d, 0
  br i1 %short, label %again, label %yes
again:
  $pause
  %i1 = add i64 %i, 1
  %go = icmp slt i64 %i1, %rounds
  br i1 %go, label %loop, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

; The row after the last of the phase that begins with row %first, in the lower half of the result,
; and the number of its units in the upper.
define internal i64 @phase(ptr %steps, i64 %count, i64 %first) {
entry:
  br label %loop
loop:
  %i = phi i64 [%first, %entry], [%i1, %next]
  %units = phi i64 [0, %entry], [%units1, %next]
  %end = icmp sge i64 %i, %count
  br i1 %end, label %out, label %look
look:
  %row = getelementptr [$ROW_WORDS x i64], ptr %steps, i64 %i
  %pflags = getelementptr i8, ptr %row, i64 $ROW_FLAGS
  %flags = load i64, ptr %pflags
  %bbit = and i64 %flags, 2
  %meet = icmp ne i64 %bbit, 0
  %later = icmp sgt i64 %i, %first
  %over = and i1 %meet, %later
  br i1 %over, label %out, label %next
next:
  %pbit = and i64 %flags, 1
  %shared = icmp ne i64 %pbit, 0
  %plength = getelementptr i8, ptr %row, i64 $ROW_CHUNKS
  %length = load i64, ptr %plength
  %rows = select i1 %shared, i64 1, i64 %length
  %i1 = add i64 %i, %rows
  %units1 = add i64 %units, 1
  br label %loop
out:
  %upper = shl i64 %units, 32
  %both = or i64 %upper, %i
  ret i64 %both
}

; All phases of a call, as thread %t of %n; its first unit and phase have the given numbers.
; Thread 0 returns when everything is done, the others when nothing is left to claim.
define internal void @walk(ptr %call, ptr %team, i64 %t, i64 %n, i64 %unit0, i64 %phase0,
                           ptr %ring) {
entry:
  %psteps = getelementptr i8, ptr %call, i64 $CALL_STEPS
  %steps = load ptr, ptr %psteps
  %pcount = getelementptr i8, ptr %call, i64 $CALL_COUNT
  %count = load i64, ptr %pcount
  %pspins = getelementptr i8, ptr %team, i64 $TEAM_SPINS
  %spins = load i64, ptr %pspins
  %ppatience = getelementptr i8, ptr %team, i64 $TEAM_PATIENCE
  %patience = load i64, ptr %ppatience
  %event = getelementptr i8, ptr %team, i64 $TEAM_EVENT
  %sleepers = getelementptr i8, ptr %team, i64 $TEAM_SLEEPERS
  %dones = getelementptr i8, ptr %team, i64 $TEAM_DONE
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%last, %advance]
  %unit = phi i64 [%unit0, %entry], [%unit1, %advance]
  %phase = phi i64 [%phase0, %entry], [%phase1, %advance]
  %row = getelementptr [$ROW_WORDS x i64], ptr %steps, i64 %i
  %ptotal = getelementptr i8, ptr %row, i64 $ROW_TOTAL
  %total = load i64, ptr %ptotal
  %extent = call i64 @phase(ptr %steps, i64 %count, i64 %i)
  %last = and i64 %extent, 4294967295
  %units = lshr i64 %extent, 32
  %slot = and i64 %phase, $PHASE_MASK
  %slotb = mul i64 %slot, $LINE_BYTES
  %done = getelementptr i8, ptr %dones, i64 %slotb
  %phases = shl i64 %phase, 16
  %target = add i64 %phases, %total
  %mine = call i64 @units(ptr %call, ptr %ring, i64 %t, i64 %n, i64 %i, i64 %last, i64 %unit,
                          i1 true, i1 false)
  call void @report(ptr %team, ptr %done, i64 %phase, i64 %mine, i64 %total)
  %ready = call i1 @soon(ptr %done, i64 %target, i64 1)
  br i1 %ready, label %advance, label %help
help:
  %much = call i64 @units(ptr %call, ptr %ring, i64 %t, i64 %n, i64 %i, i64 %last, i64 %unit,
                          i1 false, i1 true)
  call void @report(ptr %team, ptr %done, i64 %phase, i64 %much, i64 %total)
  %good = call i1 @soon(ptr %done, i64 %target, i64 %patience)
  br i1 %good, label %advance, label %insist
insist:
  %rest = call i64 @units(ptr %call, ptr %ring, i64 %t, i64 %n, i64 %i, i64 %last, i64 %unit,
                          i1 false, i1 false)
  call void @report(ptr %team, ptr %done, i64 %phase, i64 %rest, i64 %total)
  %final = icmp sge i64 %last, %count
  %worker = icmp ne i64 %t, 0
  %leave = and i1 %final, %worker
  br i1 %leave, label %out, label %wait
wait:
  call void @await(ptr %team, ptr %done, i64 %target, ptr %event, ptr %sleepers, i64 %spins)
  br label %advance
advance:
  %phase1 = add i64 %phase, 1
  %unit1 = add i64 %unit, %units
  %end = icmp sge i64 %last, %count
  br i1 %end, label %out, label %loop
out:
  ret void
}

; One call by the whole team; the calling thread is number 0. Returns how many workers have not left.
define i32 @evonnx_team_run(ptr %team, ptr %call) {
  %pc = getelementptr i8, ptr %team, i64 $TEAM_CALL
  %pu = getelementptr i8, ptr %team, i64 $TEAM_UNIT
  %pp = getelementptr i8, ptr %team, i64 $TEAM_PHASE
  %pnu = getelementptr i8, ptr %team, i64 $TEAM_NEXT_UNIT
  %pnp = getelementptr i8, ptr %team, i64 $TEAM_NEXT_PHASE
  %unit = load i64, ptr %pnu
  %phase = load i64, ptr %pnp
  %pcu = getelementptr i8, ptr %call, i64 $CALL_UNITS
  %units = load i64, ptr %pcu
  %pcp = getelementptr i8, ptr %call, i64 $CALL_PHASES
  %phases = load i64, ptr %pcp
  %unit1 = add i64 %unit, %units
  %phase1 = add i64 %phase, %phases
  store i64 %unit1, ptr %pnu
  store i64 %phase1, ptr %pnp
  store atomic ptr %call, ptr %pc release, align 8
  store atomic i64 %unit, ptr %pu release, align 8
  store atomic i64 %phase, ptr %pp release, align 8
  %pe = getelementptr i8, ptr %team, i64 $TEAM_EPOCH
  %opened = atomicrmw add ptr %pe, i64 1 seq_cst, align 8
  %pie = getelementptr i8, ptr %team, i64 $TEAM_IDLE_EVENT
  %pis = getelementptr i8, ptr %team, i64 $TEAM_IDLE_SLEEPERS
  call void @wake(ptr %team, ptr %pie, ptr %pis)
  %pn = getelementptr i8, ptr %team, i64 $TEAM_THREADS
  %n = load i64, ptr %pn
  %pr = getelementptr i8, ptr %team, i64 $TEAM_RING
  %ring = load ptr, ptr %pr
  call void @walk(ptr %call, ptr %team, i64 0, i64 %n, i64 %unit, i64 %phase, ptr %ring)
  %closed = atomicrmw add ptr %pe, i64 1 seq_cst, align 8
  %pa = getelementptr i8, ptr %team, i64 $TEAM_ACTIVE
  %active = load atomic i32, ptr %pa seq_cst, align 4
  ret i32 %active
}

; A call up to REPEAT_COUNT times, by the team or (null) on the calling thread; the base table and
; the counter move on after each. Ends early where the condition is false. Returns how often.
define i64 @evonnx_repeat(ptr %team, ptr %call, ptr %plan) {
entry:
  %pbases = getelementptr i8, ptr %call, i64 $CALL_BASES
  %bases = load ptr, ptr %pbases
  %pn = getelementptr i8, ptr %plan, i64 $REPEAT_COUNT
  %n = load i64, ptr %pn
  %pcounter = getelementptr i8, ptr %plan, i64 $REPEAT_COUNTER
  %counter = load ptr, ptr %pcounter
  %pcondition = getelementptr i8, ptr %plan, i64 $REPEAT_CONDITION
  %condition = load i64, ptr %pcondition
  %padds = getelementptr i8, ptr %plan, i64 $REPEAT_ADDS
  %adds = load i64, ptr %padds
  %pswaps = getelementptr i8, ptr %plan, i64 $REPEAT_SWAPS
  %swaps = load i64, ptr %pswaps
  %pactive = getelementptr i8, ptr %plan, i64 $REPEAT_ACTIVE
  %pcopies = getelementptr i8, ptr %plan, i64 $REPEAT_COPIES
  %copies = load i64, ptr %pcopies
  %list = getelementptr i8, ptr %plan, i64 $REPEAT_WORDS
  %pairs = getelementptr [$COPY_WORDS x i64], ptr %list, i64 %copies
  %all = add i64 %adds, %swaps
  %alone = icmp eq ptr %team, null
  %none = icmp sle i64 %n, 0
  br i1 %none, label %out, label %again
again:
  %i = phi i64 [0, %entry], [%i1, %look]
  br i1 %alone, label %single, label %together
single:
  call void @evonnx_run(ptr %call)
  br label %count
together:
  %active = call i32 @evonnx_team_run(ptr %team, ptr %call)
  %wide = zext i32 %active to i64
  store i64 %wide, ptr %pactive
  br label %count
count:
  %i1 = add i64 %i, 1
  %seen = load i64, ptr %counter
  %seen1 = add i64 %seen, 1
  store i64 %seen1, ptr %counter
  br label %keep
keep:
  %c = phi i64 [0, %count], [%c1, %copy]
  %uncopied = icmp slt i64 %c, %copies
  br i1 %uncopied, label %copy, label %moves
copy:
  %entry_c = getelementptr [$COPY_WORDS x i64], ptr %list, i64 %c
  %cslot = load i64, ptr %entry_c
  %pcoffset = getelementptr i8, ptr %entry_c, i64 $COPY_OFFSET
  %coffset = load i64, ptr %pcoffset
  %pcbytes = getelementptr i8, ptr %entry_c, i64 $COPY_BYTES
  %cbytes = load i64, ptr %pcbytes
  %ptarget = getelementptr i8, ptr %entry_c, i64 $COPY_TARGET
  %target = load ptr, ptr %ptarget
  %pcstep = getelementptr i8, ptr %entry_c, i64 $COPY_STEP
  %cstep = load i64, ptr %pcstep
  %pcbase = getelementptr i64, ptr %bases, i64 %cslot
  %cbase = load ptr, ptr %pcbase
  %source = getelementptr i8, ptr %cbase, i64 %coffset
  call void @llvm.memcpy.p0.p0.i64(ptr %target, ptr %source, i64 %cbytes, i1 false)
  %target1 = getelementptr i8, ptr %target, i64 %cstep
  store ptr %target1, ptr %ptarget
  %c1 = add i64 %c, 1
  br label %keep
moves:
  %k = phi i64 [0, %keep], [%k1, %moved]
  %left = icmp slt i64 %k, %all
  br i1 %left, label %move, label %check
move:
  %pair = getelementptr [2 x i64], ptr %pairs, i64 %k
  %slot = load i64, ptr %pair
  %pother = getelementptr i64, ptr %pair, i64 1
  %other = load i64, ptr %pother
  %pbase = getelementptr i64, ptr %bases, i64 %slot
  %base = load i64, ptr %pbase
  %adding = icmp slt i64 %k, %adds
  br i1 %adding, label %advance, label %exchange
advance:
  %next = add i64 %base, %other
  store i64 %next, ptr %pbase
  br label %moved
exchange:
  %pbase2 = getelementptr i64, ptr %bases, i64 %other
  %base2 = load i64, ptr %pbase2
  store i64 %base2, ptr %pbase
  store i64 %base, ptr %pbase2
  br label %moved
moved:
  %k1 = add i64 %k, 1
  br label %moves
check:
  %unasked = icmp eq i64 %condition, 0
  br i1 %unasked, label %look, label %ask
ask:
  %pflag = getelementptr i64, ptr %bases, i64 %condition
  %flag = load ptr, ptr %pflag
  %value = load i8, ptr %flag
  %false = icmp eq i8 %value, 0
  br i1 %false, label %out, label %look
look:
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %again, label %out
out:
  %done = phi i64 [0, %entry], [%i1, %ask], [%i1, %look]
  ret i64 %done
}

; Life of thread %t: wait for a call, join it if it is still open, until told to quit.
define void @evonnx_worker(ptr %team, i64 %t) {
entry:
  %pe = getelementptr i8, ptr %team, i64 $TEAM_EPOCH
  %pie = getelementptr i8, ptr %team, i64 $TEAM_IDLE_EVENT
  %pis = getelementptr i8, ptr %team, i64 $TEAM_IDLE_SLEEPERS
  %pa = getelementptr i8, ptr %team, i64 $TEAM_ACTIVE
  %pq = getelementptr i8, ptr %team, i64 $TEAM_QUIT
  %pn = getelementptr i8, ptr %team, i64 $TEAM_THREADS
  %n = load i64, ptr %pn
  %psp = getelementptr i8, ptr %team, i64 $TEAM_GO_SPINS
  %spins = load i64, ptr %psp
  br label %idle
idle:
  %seen = phi i64 [0, %entry], [%epoch, %look], [%epoch, %left]
  %target = add i64 %seen, 1
  call void @await(ptr %team, ptr %pe, i64 %target, ptr %pie, ptr %pis, i64 %spins)
  %epoch = load atomic i64, ptr %pe seq_cst, align 8
  %q = load atomic i64, ptr %pq seq_cst, align 8
  %quit = icmp ne i64 %q, 0
  br i1 %quit, label %out, label %look
look:
  %bit = and i64 %epoch, 1
  %open = icmp ne i64 %bit, 0
  br i1 %open, label %join, label %idle
join:
  %a0 = atomicrmw add ptr %pa, i32 1 seq_cst, align 4
  %pc = getelementptr i8, ptr %team, i64 $TEAM_CALL
  %call = load atomic ptr, ptr %pc acquire, align 8
  %pu = getelementptr i8, ptr %team, i64 $TEAM_UNIT
  %unit = load atomic i64, ptr %pu acquire, align 8
  %pp = getelementptr i8, ptr %team, i64 $TEAM_PHASE
  %phase = load atomic i64, ptr %pp acquire, align 8
  %pr = getelementptr i8, ptr %team, i64 $TEAM_RING
  %ring = load atomic ptr, ptr %pr acquire, align 8
  %again = load atomic i64, ptr %pe seq_cst, align 8
  %same = icmp eq i64 %again, %epoch
  br i1 %same, label %work, label %left
work:
  call void @walk(ptr %call, ptr %team, i64 %t, i64 %n, i64 %unit, i64 %phase, ptr %ring)
  br label %left
left:
  %a1 = atomicrmw sub ptr %pa, i32 1 seq_cst, align 4
  br label %idle
out:
  ret void
}

; Send the workers home.
define void @evonnx_team_quit(ptr %team) {
  %pq = getelementptr i8, ptr %team, i64 $TEAM_QUIT
  store atomic i64 1, ptr %pq seq_cst, align 8
  %pe = getelementptr i8, ptr %team, i64 $TEAM_EPOCH
  %e = atomicrmw add ptr %pe, i64 2 seq_cst, align 8
  %pie = getelementptr i8, ptr %team, i64 $TEAM_IDLE_EVENT
  %pis = getelementptr i8, ptr %team, i64 $TEAM_IDLE_SLEEPERS
  call void @wake(ptr %team, ptr %pie, ptr %pis)
  ret void
}
