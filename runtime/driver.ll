; The native driver. driver.py explains the design and fills in what begins with a dollar sign.

$declare_pause

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

; The next chunk of unit number %unit, of which there are %limit; -1 if none is left.
define internal i64 @claim(ptr %word, i64 %unit, i64 %limit) {
entry:
  %fresh = shl i64 %unit, 16
  %first = load atomic i64, ptr %word monotonic, align 8
  br label %try
try:
  %w = phi i64 [%first, %entry], [%seen, %swap]
  %x = sub i64 %w, %fresh
  %old = icmp slt i64 %x, 0
  %next = select i1 %old, i64 0, i64 %x
  %left = icmp slt i64 %next, %limit
  br i1 %left, label %swap, label %none
swap:
  %taken = add i64 %next, 1
  %new = add i64 %fresh, %taken
  %r = cmpxchg ptr %word, i64 %w, i64 %new acq_rel acquire, align 8
  %seen = extractvalue {i64, i1} %r, 0
  %ok = extractvalue {i64, i1} %r, 1
  br i1 %ok, label %mine, label %try
mine:
  ret i64 %next
none:
  ret i64 -1
}

; Report %count chunks of phase number %phase; wake the others if that completes %total.
define internal void @report(ptr %team, ptr %word, i64 %phase, i64 %count, i64 %total) {
entry:
  %fresh = shl i64 %phase, 16
  %first = load atomic i64, ptr %word monotonic, align 8
  br label %try
try:
  %w = phi i64 [%first, %entry], [%seen, %try]
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

; What is left of part %part of a parallel unit; returns the number of chunks done.
define internal i64 @part(ptr %row, ptr %claims, i64 %unit, i64 %part, i64 %n, ptr %bases,
                          ptr %bufs, i64 %scratch) {
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
  %skip = mul i64 %part, $CLAIM_BYTES
  %word = getelementptr i8, ptr %claims, i64 %skip
  br label %next
next:
  %count = phi i64 [0, %entry], [%count1, %work]
  %k = call i64 @claim(ptr %word, i64 %unit, i64 %limit)
  %got = icmp sge i64 %k, 0
  br i1 %got, label %work, label %out
work:
  %j = add i64 %lo, %k
  %begin = mul i64 %j, %size
  %stop = add i64 %begin, %size
  %over = icmp sgt i64 %stop, %tiles
  %end = select i1 %over, i64 %tiles, i64 %stop
  call void @apply(ptr %row, ptr %bases, ptr %bufs, i64 %scratch, i64 %begin, i64 %end)
  %count1 = add i64 %count, 1
  br label %next
out:
  ret i64 %count
}

; All units of a call, as thread %t of %n; its first unit and phase have the given numbers.
; Thread 0 returns when everything is done, the others when nothing is left to claim.
define internal void @walk(ptr %call, ptr %team, i64 %t, i64 %n, i64 %unit0, i64 %phase0,
                           ptr %ring) {
entry:
  %psteps = getelementptr i8, ptr %call, i64 $CALL_STEPS
  %steps = load ptr, ptr %psteps
  %pcount = getelementptr i8, ptr %call, i64 $CALL_COUNT
  %count = load i64, ptr %pcount
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
  %pspins = getelementptr i8, ptr %team, i64 $TEAM_SPINS
  %spins = load i64, ptr %pspins
  %event = getelementptr i8, ptr %team, i64 $TEAM_EVENT
  %sleepers = getelementptr i8, ptr %team, i64 $TEAM_SLEEPERS
  %dones = getelementptr i8, ptr %team, i64 $TEAM_DONE
  %ptotal0 = getelementptr i8, ptr %steps, i64 $ROW_TOTAL
  %total0 = load i64, ptr %ptotal0
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %advance]
  %unit = phi i64 [%unit0, %entry], [%unit1, %advance]
  %phase = phi i64 [%phase0, %entry], [%phase2, %advance]
  %mine = phi i64 [0, %entry], [%mine2, %advance]
  %total = phi i64 [%total0, %entry], [%total2, %advance]
  %end = icmp sge i64 %i, %count
  %row = getelementptr [$ROW_WORDS x i64], ptr %steps, i64 %i
  br i1 %end, label %finish, label %look
look:
  %pflags = getelementptr i8, ptr %row, i64 $ROW_FLAGS
  %flags = load i64, ptr %pflags
  %bbit = and i64 %flags, 2
  %meet = icmp ne i64 %bbit, 0
  br i1 %meet, label %finish, label %unit_start

; -- the phase ends here
finish:
  %slot = and i64 %phase, $PHASE_MASK
  %slotb = mul i64 %slot, $LINE_BYTES
  %done = getelementptr i8, ptr %dones, i64 %slotb
  %some = icmp sgt i64 %mine, 0
  br i1 %some, label %tell, label %told
tell:
  call void @report(ptr %team, ptr %done, i64 %phase, i64 %mine, i64 %total)
  br label %told
told:
  %worker = icmp ne i64 %t, 0
  %leave = and i1 %end, %worker
  br i1 %leave, label %out, label %wait
wait:
  %phases = shl i64 %phase, 16
  %target = add i64 %phases, %total
  call void @await(ptr %team, ptr %done, i64 %target, ptr %event, ptr %sleepers, i64 %spins)
  br i1 %end, label %out, label %begin
begin:
  %phase1 = add i64 %phase, 1
  %ptotal = getelementptr i8, ptr %row, i64 $ROW_TOTAL
  %total1 = load i64, ptr %ptotal
  br label %unit_start

; -- one unit
unit_start:
  %phase2 = phi i64 [%phase, %look], [%phase1, %begin]
  %mine1 = phi i64 [%mine, %look], [0, %begin]
  %total2 = phi i64 [%total, %look], [%total1, %begin]
  %place = and i64 %unit, %mask
  %placeb = mul i64 %place, %claim_row
  %claims = getelementptr i8, ptr %ring, i64 %placeb
  %pkind = getelementptr i8, ptr %row, i64 $ROW_FLAGS
  %kind = load i64, ptr %pkind
  %pbit = and i64 %kind, 1
  %shared = icmp ne i64 %pbit, 0
  br i1 %shared, label %parts, label %run
run:
  %plength = getelementptr i8, ptr %row, i64 $ROW_CHUNKS
  %length = load i64, ptr %plength
  %got = call i64 @claim(ptr %claims, i64 %unit, i64 1)
  %own = icmp sge i64 %got, 0
  br i1 %own, label %all, label %advance
all:
  call void @serial(ptr %row, i64 %length, ptr %bases, ptr %bufs, i64 %scratch)
  %mine_run = add i64 %mine1, 1
  br label %advance
parts:
  %v = phi i64 [0, %unit_start], [%v1, %parts]
  %sum = phi i64 [%mine1, %unit_start], [%sum1, %parts]
  %tv = add i64 %t, %v
  %wrap = icmp sge i64 %tv, %n
  %tvn = sub i64 %tv, %n
  %part = select i1 %wrap, i64 %tvn, i64 %tv
  %did = call i64 @part(ptr %row, ptr %claims, i64 %unit, i64 %part, i64 %n, ptr %bases, ptr %bufs,
                        i64 %scratch)
  %sum1 = add i64 %sum, %did
  %v1 = add i64 %v, 1
  %others = icmp slt i64 %v1, %n
  br i1 %others, label %parts, label %advance
advance:
  %rows = phi i64 [%length, %run], [%length, %all], [1, %parts]
  %mine2 = phi i64 [%mine1, %run], [%mine_run, %all], [%sum1, %parts]
  %i1 = add i64 %i, %rows
  %unit1 = add i64 %unit, 1
  br label %loop
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
