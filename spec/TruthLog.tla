------------------------------- MODULE TruthLog -------------------------------
(*
The truth log of one shard: how a message comes to stable storage, when it is
acknowledged, and what is left of it after a crash. `cargo xtask spec` checks it.

Who takes part:
  publisher   sends frames until they are acknowledged or refused; here a frame
              has one message, and its identity is <<message, epoch>>
  node        `tachyond`: one worker with its window, its held messages, and the
              ring through which it taps frames to control
  control     `tachyon-control`: appends records to the newest segment, syncs
              them together, and moves the cursor that the worker reads
  storage     files whose writes reach the disk when synced, or earlier, or never
  subscriber  drops what it has, by the identity in the provenance

A power failure stops both processes and forgets what was not synced, each slot
by itself: so the end of a file may be lost, torn, or there with a gap before it.
To a reader lost and torn are the same: bytes whose checksum does not match.
A crash of one process forgets only that process's memory. A failed sync leaves
every unsynced slot unknown, and clean: a second sync would say yes to nothing.

Hashes are perfect here: instead of a hash a record carries all that it covers.
Filling a segment and opening the next is the same step as opening one after a
recovery, so segments are opened here only for the latter.

Left out: messages lost on the way to a subscriber, timeouts, full disks, bits
that decay, other shards, frames with several messages, windows that overflow.

`Bug` breaks one rule on purpose. What each value breaks is said where it is used;
which property has to notice is said in the runner.
*)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Durable, Logged,    \* the messages, by what their topics ask for
    RingMax,            \* frames that the ring holds
    FaultsMax,          \* crashes, power failures and failed syncs, all together
    Bug                 \* "none", or the rule that is broken

Messages == Durable \union Logged
Symmetry == Permutations(Durable) \union Permutations(Logged)

ASSUME Bug \in {"none", "ack_before_sync", "sync_again", "last_good_record", "torn_is_good",
                "stale_tail", "cached_pages", "sequence_reused", "forward_before_sync",
                "dropped_by_ring", "freed_when_written", "acked_when_tapped", "windows_forgotten",
                "held_is_refused", "cut_not_synced"}

VARIABLES
    \* The publisher's memory, which never fails here.
    state,              \* of each message: "waiting", "acked", "refused"
    sent_in,            \* the epoch under which each message was sent last
    \* The subscriber's memory, which never fails here either.
    received,           \* identities of durable messages; a set, so repeats are dropped
    \* The node's memory, shared with control.
    node_up,
    epoch,              \* moves on with every start of the node
    window,             \* of each message: "none", "held", "settled", "refused"
    ring,               \* identities tapped and not yet freed by control, oldest first
    told,               \* identities that control's cursor has passed
    \* Control's memory.
    control_up,
    chain,              \* the entries of the log as control knows it
    synced,             \* how many of them it knows to be on stable storage
    \* Storage, and what has gone wrong so far.
    files,              \* segments in order of their numbers; each a sequence of slots
    faults_left,
    storage_failed      \* whether power or a sync ever failed

publisher == <<state, sent_in>>
node == <<node_up, epoch, window, ring, told>>
control == <<control_up, chain, synced>>
faults == <<faults_left, storage_failed>>
vars == <<publisher, received, node, control, files, faults>>

Identity(m) == <<m, sent_in[m]>>
Identities(log) == {log[i].identity : i \in DOMAIN log}

-------------------------------------------------------------------------------
(* Storage *)

Torn == [kind |-> "torn"]
Header(base) == [kind |-> "header", base |-> base]
Record(entry, before) == [kind |-> "record", entry |-> entry, before |-> before]

Slot(cell) == [cell |-> cell, is |-> "dirty"]
DirtySlots(f) == {<<s, i>> \in UNION {{s} \X DOMAIN f[s] : s \in DOMAIN f} : f[s][i].is = "dirty"}

\* The unsynced slots in `kept` reach the disk; the others never will, though who reads the file may still see them.
Flush(f, kept) ==
    [s \in DOMAIN f |-> [i \in DOMAIN f[s] |->
        IF f[s][i].is # "dirty" THEN f[s][i]
        ELSE [f[s][i] EXCEPT !.is = IF <<s, i>> \in kept THEN "stable" ELSE "gone"]]]

\* What a read of the disk itself gives, and what one through the kernel's cache gives.
OnDisk(f) == [s \in DOMAIN f |-> [i \in DOMAIN f[s] |-> IF f[s][i].is = "stable" THEN f[s][i].cell ELSE Torn]]
InCache(f) == [s \in DOMAIN f |-> [i \in DOMAIN f[s] |-> f[s][i].cell]]

\* After a power failure the cache is empty, so both are the same.
Reboot(f) ==
    LET disk == OnDisk(f) IN [s \in DOMAIN f |-> [i \in DOMAIN f[s] |-> [cell |-> disk[s][i], is |-> "stable"]]]

\* A new segment says in its header after which entry it continues; thereby it cuts whatever older segments have behind that.
Open(f, base) == Append(f, <<Slot(Header(base))>>)

-------------------------------------------------------------------------------
(* Reading the log *)

Garbage == [segment |-> 0, sequence |-> 0, identity |-> <<0, 0>>]

\* The records of one segment, as far as each covers exactly what was read before it.
RECURSIVE Follow(_, _)
Follow(cells, log) ==
    IF cells = <<>> THEN log
    ELSE LET cell == Head(cells) IN
        CASE cell.kind = "record" /\ cell.before = log -> Follow(Tail(cells), Append(log, cell.entry))
          \* Whatever has a good checksum of its own is taken, the torn ones between are passed over.
          [] Bug = "last_good_record" /\ cell.kind = "record" -> Follow(Tail(cells), Append(log, cell.entry))
          [] Bug = "last_good_record" /\ cell.kind = "torn" -> Follow(Tail(cells), log)
          \* Whatever lies within the file's length is taken.
          [] Bug = "torn_is_good" /\ cell.kind = "torn" -> Follow(Tail(cells), Append(log, Garbage))
          [] OTHER -> log

IsPrefix(short, long) == Len(short) <= Len(long) /\ SubSeq(long, 1, Len(short)) = short

\* The first segments up to this one. A segment counts if its header is whole and continues after an entry that was read;
\* entries behind that one were cut when it was opened.
RECURSIVE ReadTo(_, _)
ReadTo(cells, segment) ==
    IF segment = 0 THEN <<>>
    ELSE LET before == ReadTo(cells, segment - 1)
             header == Head(cells[segment])
             continues ==
                 \* The bug takes the end of the old segment for good, and then the new one for a stranger.
                 /\ header.kind = "header"
                 /\ IF Bug = "stale_tail" THEN header.base = before ELSE IsPrefix(header.base, before)
         IN IF continues THEN Follow(Tail(cells[segment]), header.base) ELSE before

Read(cells) == ReadTo(cells, Len(cells))

\* What would be left if power failed now and nothing unsynced had reached the disk.
Log == Read(OnDisk(files))

-------------------------------------------------------------------------------
(* The publisher *)

\* Every message has been sent at the start, and is sent again with the same bytes until settled. Nothing is said here of the
\* network: a frame may arrive at any time, any number of times, or not yet.

\* The node has a new epoch and says that it does not have the frame, so the message is published anew.
PublishAnew(m) ==
    /\ node_up /\ state[m] = "waiting" /\ sent_in[m] < epoch /\ window[m] = "none"
    /\ sent_in' = [sent_in EXCEPT ![m] = epoch]
    /\ UNCHANGED <<state, received, node, control, files, faults>>

-------------------------------------------------------------------------------
(* The node *)

\* A frame that the window has is not judged again, and one of an older epoch is stale.
Arrives(m) == node_up /\ sent_in[m] = epoch /\ window[m] = "none"

\* A frame is admitted, judged and tapped. A message of a durable topic is held; one of a logged topic is forwarded at once.
\* The worker may not have noticed yet that control is gone: what is tapped then waits in the ring.
Admit(m) ==
    /\ Arrives(m)
    /\ Len(ring) < RingMax \/ Bug = "dropped_by_ring"
    /\ ring' = IF Len(ring) < RingMax THEN Append(ring, Identity(m)) ELSE ring
    /\ window' = [window EXCEPT ![m] = "held"]
    /\ received' = IF Bug = "forward_before_sync" /\ m \in Durable THEN received \union {Identity(m)} ELSE received
    /\ told' = IF Bug = "acked_when_tapped" /\ m \in Logged THEN told \union {Identity(m)} ELSE told
    /\ UNCHANGED <<publisher, node_up, epoch, control, files, faults>>

\* A frame is refused before it is tapped, never after: nobody who is told of a refusal finds the message in the log.
Refuse(m) ==
    /\ Arrives(m)
    /\ (m \in Durable /\ ~control_up) \/ (Len(ring) = RingMax /\ Bug # "dropped_by_ring")
    /\ window' = [window EXCEPT ![m] = "refused"]
    /\ UNCHANGED <<publisher, received, node_up, epoch, ring, told, control, files, faults>>

\* Only as a bug: what is held is refused because control is gone, though it may have written it.
RefuseHeld(m) ==
    /\ Bug = "held_is_refused"
    /\ node_up /\ ~control_up /\ window[m] = "held"
    /\ window' = [window EXCEPT ![m] = "refused"]
    /\ UNCHANGED <<publisher, received, node_up, epoch, ring, told, control, files, faults>>

\* The cursor has passed the frame: what was held is forwarded with its identity as provenance, and the buffer returns.
Settle(m) ==
    /\ node_up /\ window[m] = "held" /\ Identity(m) \in told
    /\ window' = [window EXCEPT ![m] = "settled"]
    /\ received' = IF m \in Durable THEN received \union {Identity(m)} ELSE received
    /\ UNCHANGED <<publisher, node_up, epoch, ring, told, control, files, faults>>

\* An ack of class 2 for a durable topic, 1 for a logged one, or a nack, reaches the publisher. Before it does, any number of
\* them may have been lost: a repeated frame is answered again.
Answer(m) ==
    /\ node_up /\ state[m] = "waiting"
    /\ \/ /\ window[m] = "settled"
          /\ state' = [state EXCEPT ![m] = "acked"]
       \/ /\ Bug = "ack_before_sync" /\ window[m] = "held" /\ Identity(m) \in Identities(chain)
          /\ state' = [state EXCEPT ![m] = "acked"]
       \/ /\ window[m] = "refused"
          /\ state' = [state EXCEPT ![m] = "refused"]
    /\ UNCHANGED <<sent_in, received, node, control, files, faults>>

-------------------------------------------------------------------------------
(* Control *)

\* The oldest frame of the ring that is not in the log yet becomes a record. It stays in the ring until it is stable, so
\* neither a crash of control nor a failed sync loses it. A logged topic asks for no more than this.
Write ==
    /\ control_up
    /\ LET missing == SelectSeq(ring, LAMBDA identity : identity \notin Identities(chain))
           identity == Head(missing)
           \* The bug begins each segment at 1 again.
           sequence == IF Bug = "sequence_reused" THEN Len(files[Len(files)]) ELSE Len(chain) + 1
           entry == [segment |-> Len(files), sequence |-> sequence, identity |-> identity]
       IN /\ missing # <<>>
          /\ files' = [files EXCEPT ![Len(files)] = Append(@, Slot(Record(entry, chain)))]
          /\ chain' = Append(chain, entry)
          /\ told' = IF identity[1] \in Durable THEN told ELSE told \union {identity}
          /\ ring' = IF Bug = "freed_when_written" THEN SelectSeq(ring, LAMBDA other : other # identity) ELSE ring
    /\ UNCHANGED <<publisher, received, node_up, epoch, window, control_up, synced, faults>>

\* All of this log is stable: the cursor moves over its frames, and their places in the ring are free again.
Tell(log) ==
    /\ synced' = Len(log)
    /\ told' = IF node_up THEN told \union Identities(log) ELSE told
    /\ ring' = SelectSeq(ring, LAMBDA identity : identity \notin Identities(log))

\* The group commit: one sync for all that was written since the last. (A crash between it and the cursor's move is the same
\* as one before it, after which everything had reached the disk.)
Sync ==
    /\ control_up
    /\ DirtySlots(files) # {} \/ synced < Len(chain)
    /\ files' = Flush(files, DirtySlots(files))
    /\ Tell(chain)
    /\ UNCHANGED <<publisher, received, node_up, epoch, window, control_up, chain, faults>>

\* Something fails, which is one of the faults that this model allows.
Fault(of_storage) ==
    /\ faults_left > 0
    /\ faults_left' = faults_left - 1
    /\ storage_failed' = (storage_failed \/ of_storage)

\* A sync fails. Which slots reached the disk is unknown and stays so, therefore control goes back to what it knows to be
\* stable, continues in a new segment, and writes again from the ring. The bug syncs again instead.
SyncFails ==
    /\ control_up
    /\ DirtySlots(files) # {}
    /\ Fault(TRUE)
    /\ \E kept \in SUBSET DirtySlots(files) :
        IF Bug = "sync_again"
        THEN files' = Flush(files, kept) /\ UNCHANGED chain
        ELSE /\ chain' = SubSeq(chain, 1, synced)
             /\ files' = Open(Flush(files, kept), chain')
    /\ UNCHANGED <<publisher, received, node, control_up, synced>>

-------------------------------------------------------------------------------
(* Crashes and recovery *)

\* Control's memory is gone. The ring and the cursor lie in memory that the node owns, and the cache is the kernel's, so what was
\* written may still reach the disk.
ControlCrashes ==
    /\ control_up
    /\ Fault(FALSE)
    /\ control_up' = FALSE /\ chain' = <<>> /\ synced' = 0
    /\ UNCHANGED <<publisher, received, node, files>>

\* Windows, held messages, ring and cursor are gone.
ForgetNode ==
    /\ node_up' = FALSE /\ ring' = <<>> /\ told' = {} /\ UNCHANGED epoch
    /\ window' = [m \in Messages |-> "none"]

\* Control goes on, and syncs what it has written; what is in the ring only is gone.
NodeCrashes ==
    /\ node_up
    /\ Fault(FALSE)
    /\ ForgetNode
    /\ UNCHANGED <<publisher, received, control, files>>

\* Both stop. Of what was not synced any part may have reached the disk, in any order.
PowerFails ==
    /\ Fault(TRUE)
    /\ ForgetNode
    /\ control_up' = FALSE /\ chain' = <<>> /\ synced' = 0
    /\ \E kept \in SUBSET DirtySlots(files) : files' = Reboot(Flush(files, kept))
    /\ UNCHANGED <<publisher, received>>

\* Control starts: it syncs what the one before may have left unsynced, reads the disk past the cache (after a sync that
\* failed before the crash the cache shows what the disk does not have), and continues in a new segment.
Recover ==
    /\ ~control_up
    /\ \E kept \in SUBSET DirtySlots(files) :
        LET failed == kept # DirtySlots(files)
            flushed == Flush(files, kept)
            log == Read(IF Bug = "cached_pages" THEN InCache(flushed) ELSE OnDisk(flushed))
        IN /\ IF failed THEN Fault(TRUE) ELSE UNCHANGED faults
           /\ chain' = log
           /\ files' = Open(flushed, log)
           /\ Tell(log)
    /\ control_up' = TRUE
    /\ UNCHANGED <<publisher, received, node_up, epoch, window>>

\* The node starts under a new epoch. For durable topics it waits until control gives it the windows of the old epochs, made
\* from the log, and control gives them when nothing is unsynced: not even the header that cuts what it does not count. What is
\* in the log is forwarded again and acknowledged; for all else the publisher is told that it has to publish anew.
NodeStarts ==
    /\ ~node_up /\ control_up
    /\ synced = Len(chain)
    /\ DirtySlots(files) = {} \/ Bug = "cut_not_synced"
    /\ node_up' = TRUE
    /\ epoch' = epoch + 1
    /\ LET known == IF Bug = "windows_forgotten" THEN {} ELSE Identities(chain)
       IN /\ window' = [m \in Messages |-> IF Identity(m) \in known THEN "held" ELSE "none"]
          /\ told' = known
    /\ UNCHANGED <<publisher, received, ring, control, files, faults>>

-------------------------------------------------------------------------------

Init ==
    /\ state = [m \in Messages |-> "waiting"]
    /\ sent_in = [m \in Messages |-> 0]
    /\ received = {}
    /\ node_up = TRUE /\ epoch = 0
    /\ window = [m \in Messages |-> "none"]
    /\ ring = <<>> /\ told = {}
    /\ control_up = TRUE /\ chain = <<>> /\ synced = 0
    /\ files = << <<[cell |-> Header(<<>>), is |-> "stable"]>> >>
    /\ faults_left = FaultsMax /\ storage_failed = FALSE

Works ==
    \/ \E m \in Messages : PublishAnew(m) \/ Admit(m) \/ Refuse(m) \/ Settle(m) \/ Answer(m)
    \/ Write \/ Sync \/ Recover \/ NodeStarts

Fails == SyncFails \/ ControlCrashes \/ NodeCrashes \/ PowerFails \/ \E m \in Messages : RefuseHeld(m)

Next == Works \/ Fails

\* Whoever can work does so in the end. Nothing is promised of what fails.
Fairness ==
    /\ \A m \in Messages :
        WF_vars(PublishAnew(m)) /\ WF_vars(Admit(m) \/ Refuse(m)) /\ WF_vars(Settle(m)) /\ WF_vars(Answer(m))
    /\ WF_vars(Write) /\ WF_vars(Sync) /\ WF_vars(Recover) /\ WF_vars(NodeStarts)

Spec == Init /\ [][Next]_vars /\ Fairness

-------------------------------------------------------------------------------
(* What must hold *)

TypeOK ==
    /\ state \in [Messages -> {"waiting", "acked", "refused"}]
    /\ sent_in \in [Messages -> 0..epoch]
    /\ received \subseteq Durable \X (0..epoch)
    /\ window \in [Messages -> {"none", "held", "settled", "refused"}]
    /\ Len(ring) <= RingMax
    /\ synced <= Len(chain)

\* Nothing is read as good that was not written as such.
NothingUnverified == LET log == Log IN \A i \in DOMAIN log : log[i] # Garbage

\* What is read is one chain without holes: each record covers exactly the entries read before it.
OneChain ==
    LET disk == OnDisk(files)
        log == Read(disk)
        records == UNION {{disk[s][i] : i \in DOMAIN disk[s]} : s \in DOMAIN disk}
    IN \A i \in DOMAIN log : Record(log[i], SubSeq(log, 1, i - 1)) \in records

\* Every entry has a higher sequence number than the one before, and none is left out.
SequenceRises == LET log == Log IN \A i \in DOMAIN log : log[i].sequence = i

\* A durable message that was acknowledged is in the log, whatever fails now or later.
AckedIsNeverLost ==
    LET logged == Identities(Log) IN \A m \in Durable : state[m] = "acked" => Identity(m) \in logged

\* A logged message that was acknowledged outlives both processes; only a power failure or a failed sync may take it.
LoggedOutlivesProcesses ==
    LET logged == Identities(Read(InCache(files)))
    IN ~storage_failed => \A m \in Logged : state[m] = "acked" => Identity(m) \in logged

\* No subscriber has a durable message that is not on stable storage.
ForwardedIsStable == received \subseteq Identities(Log)

\* No message reaches a subscriber under two identities, or is in the log twice.
ExactlyOnce ==
    LET log == Log IN
    /\ \A a, b \in received : a[1] = b[1] => a = b
    /\ \A i, j \in DOMAIN log : log[i].identity[1] = log[j].identity[1] => i = j

\* Who was told of a refusal may publish anew: the log does not have the message and never will.
RefusedIsNotLogged ==
    LET logged == Identities(Log) \union Identities(chain)
    IN \A m \in Messages : state[m] = "refused" => Identity(m) \notin logged

\* Every published durable message is acknowledged and delivered in the end, or refused.
Settles ==
    \A m \in Durable : state[m] = "waiting" ~>
        (state[m] = "acked" /\ \E identity \in received : identity[1] = m) \/ state[m] = "refused"
===============================================================================
