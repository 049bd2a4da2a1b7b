/* One durable room as a formal model, for Spin (make model): senders, a Redis whose pub/sub may
   lose messages and which may come back without its last writes, a node, and a client whose
   connection dies with frames on their way.

   What must hold, in every order in which things can happen: between two resyncs the client sees
   one number after the other with an unbroken chain (asserted for each frame); and at the end
   every event that Redis still has was seen, or happened before a resync.

   Each rule has a variant without it, which must fail (scripts/model has the list):
   NOCHECK  the node does not look where a quiet room is
   NOTAG    positions are numbers alone
   FLAT     a tag is made of the event alone, not of the tag before
   EARLY    the node reads first and subscribes then (with NOCHECK: the check would heal it)
   NOGEN    frames are not bound to one connection */

#ifndef P
#define P 3                                     /* events */
#endif
#ifndef RETRIES
#define RETRIES 0                               /* of events that Redis has lost */
#endif
#ifndef DROPS
#define DROPS 0                                 /* messages that pub/sub may lose */
#endif
#define N (P + RETRIES)

/* Redis: the room's log by number, as tags. A tag stands for the tag before and an event. */
byte top = 0, log[N + 1];
byte tags = 0, before[N + 1], event[N + 1];
byte events = 0, retries = 0;
byte lost[2], losses = 0;
bool subscribed = false;
chan bus = [8] of { byte, byte, byte };         /* number, tag before, tag */
byte drops = 0;
bool pubdone = false, rewdone = false;

bool got[P + 1];                                /* the client has seen the event, or a resync after it */
chan link = [16] of { bit, byte, byte, byte, byte }; /* generation, 0 event or 1 resync, number, tag before, tag */
chan hello = [2] of { bit, byte, byte };        /* a join: generation, number and tag */
bool up = false, cutdone = false, nodedone = false;

#ifdef FLAT
#define EVENT(t) t
#else
#define EVENT(t) event[t]
#endif

/* publish is the script: number, chain, keep, publish, in one step. */
inline publish(e) {
  pv = log[top];
#ifdef FLAT
  tg = e;
#else
  tg = 1;
  do :: tg <= tags && (before[tg] != pv || event[tg] != e) -> tg++ :: else -> break od;
  if :: tg > tags -> tags = tg; before[tg] = pv; event[tg] = e :: else fi;
#endif
  top++; log[top] = tg;
  if :: subscribed -> bus ! top, pv, tg
     :: subscribed && drops < DROPS -> drops++
     :: !subscribed fi;
  pv = 0; tg = 0
}

active proctype sender() {
  byte pv, tg;
  do :: atomic { events < P -> events++; publish(events) }
     :: atomic { losses > 0 && retries < RETRIES -> retries++; losses--; publish(lost[losses]); lost[losses] = 0 }
     :: atomic { losses == 2 && retries < RETRIES -> retries++; losses--; publish(lost[0]); lost[0] = lost[1]; lost[1] = 0 }
     :: events == P && rewdone -> break od;
  pubdone = true
}

/* Once, Redis loses its last one or two writes, and what it knew of their senders' ids. */
active proctype crash() {
#ifdef REWIND
  if :: atomic { top >= 1 -> lost[0] = EVENT(log[top]); losses = 1; log[top] = 0; top = top - 1 }
     :: atomic { top >= 2 -> lost[0] = EVENT(log[top]); lost[1] = EVENT(log[top - 1]); losses = 2;
                 log[top] = 0; log[top - 1] = 0; top = top - 2 }
     :: events == P fi;
#endif
  rewdone = true
}

byte pos, tag, snap[N + 1], stop_;
inline readlog() { d_step { stop_ = top; i = 1;
  do :: i <= N -> if :: i <= top -> snap[i] = log[i] :: else -> snap[i] = 0 fi; i++ :: else -> break od; i = 0 } }
inline catchup(fs, ft) { atomic {
  if
#ifdef NOTAG
  :: fs <= stop_
#else
  :: fs <= stop_ && (fs == 0 || snap[fs] == ft)
#endif
     -> i = fs + 1; do :: i <= stop_ -> link ! gen, 0, i, snap[i - 1], snap[i]; i++ :: else -> break od
  :: else -> link ! gen, 1, stop_, 0, snap[stop_]
  fi;
  pos = stop_; tag = snap[stop_]; i = 0 } }

active proctype node() {
  byte i, s, p, t, js, jt; bool joined = false; bit gen;
end:
  do
#ifdef EARLY
  :: hello ? gen, js, jt -> joined = true; readlog(); subscribed = true; catchup(js, jt)
#else
  :: hello ? gen, js, jt -> joined = true; subscribed = true; readlog(); catchup(js, jt)
#endif
  :: joined && !up -> atomic { joined = false; subscribed = false; do :: bus ? s, p, t :: empty(bus) -> break od }
  :: joined && up && bus ? [s, p, t] -> bus ? s, p, t;
       if
#ifdef NOTAG
       :: s == pos + 1 -> atomic { link ! gen, 0, s, p, t; pos = s; tag = t }
       :: s <= pos -> skip
#else
       :: s == pos + 1 && p == tag -> atomic { link ! gen, 0, s, p, t; pos = s; tag = t }
       :: s == pos && t == tag -> skip
       :: s < pos || (s == pos && t != tag) || (s == pos + 1 && p != tag) -> readlog(); catchup(pos, tag)
#endif
       :: s > pos + 1 -> readlog(); catchup(pos, tag)
       fi
  :: joined && up && empty(bus) && empty(hello) && gen == 1 && pubdone && rewdone && cutdone && !nodedone ->
#ifndef NOCHECK
       readlog();
#ifdef NOTAG
       if :: pos != stop_ -> catchup(pos, tag) :: else fi;
#else
       if :: pos != stop_ || snap[pos] != tag -> catchup(pos, tag) :: else fi;
#endif
#endif
       nodedone = true
  od
}

active proctype client() {
  byte cs = 0, ct = 0, k, s, p, t, i; bool cut = false; bit g = 0, fg;
  up = true; hello ! g, cs, ct;
  do
  :: link ? fg, k, s, p, t ->
       if
#ifndef NOGEN
       :: fg != g -> skip                       /* a frame of the dead connection */
#endif
#ifdef NOGEN
       :: k == 1 ->
#else
       :: fg == g && k == 1 ->
#endif
            d_step { cs = s; ct = t; i = 1;     /* the position first, then the present state */
              do :: i <= events -> got[i] = true; i++ :: else -> break od; i = 0 }
#ifdef NOGEN
       :: k == 0 ->
#else
       :: fg == g && k == 0 ->
#endif
            assert(s == cs + 1);
#ifndef NOTAG
            assert(p == ct);
#endif
            d_step { got[EVENT(t)] = true; cs = s; ct = t }
       fi
  :: !cut -> cut = true; up = false;            /* the connection dies with frames on their way */
       atomic { (!subscribed) -> up = true }; g = 1; hello ! g, cs, ct; cutdone = true
  :: cut && nodedone && empty(link) && empty(bus) -> break
  od;
  skip; d_step { i = 1; do :: i <= top -> assert(got[EVENT(log[i])]); i++ :: else -> break od; i = 0 }
}
