/* Assignments: who gets which bytes of supply? (docs/protocol.md, section 6.5)
 *
 * Modelled: one source, one target, up to RELAYS relays of BYTES bytes and TAGS pairs of tag keys between them, and CUTS
 * assignments of one or two keys, each as long as one byte here, for two pairs of SAEs. Pair 1 may collude with the
 * coordinator. The source has all in memory: cursors, what is asked for, what is ready. The target's marks (first free
 * byte and tag), assignments and keys are durable.
 *
 * The network from source to target keeps every message for ever and delivers it as often as it likes, in any order, or
 * never: more than loss, repetition, reordering and delay. The way back is
 *
 *   -DLYING    the same, and the coordinator on it says what it can: any answer that the target ever gave, any refusal
 *              with any hint, that the target has started; and it delivers what it likes to the target.
 *   else       an honest coordinator and broker: they may lose what they carry, but not let it overtake (numbers and
 *              epochs let nothing through twice, and what leaves for one queue leaves in its order).
 *
 * Time: an assignment's time passes at the source, in the order in which they were cut, and only then at the target,
 * since that waits a day and two hours longer, which is more than clocks may differ. Either may lag.
 *
 * Stores: each step is one commit. The source may start at any time, and then has nothing. The target's store may be
 * copied at any time, and the target started from the copy, OLD_MAX times. STRIKES times a pair is struck off in the
 * target's directory, which destroys its keys, and taken in again.
 *
 *   -DLIVE     requests: each ends, and so does each assignment (ltl ends, under weak fairness; what the coordinator
 *              invents of starts of the target is then bounded).
 *
 * Checked: no byte, and so no key_ID, is handed out twice at the source, nor fetched twice of one history of the target's
 * store; each byte belongs to one pair, at both ends, for ever; what the source hands out the target holds, or has given
 * to the slave. But for what the target has lost by an old copy or destroyed by its directory, until the source is told
 * that it has started; and a lying coordinator need not tell. No tag key tags two messages.
 *
 * Left out: what tags are made of (who lacks the key cannot make one; so an assignment that was altered is not accepted,
 * and no step here makes one, but where a mistake gives the key away); assignments that came before the rebuild, which
 * the target keeps, and which the network here may as well bring later; rates, room, sizes, what is cut for whom and when
 * (here: anything at any time); that several targets share a source, since all is kept by relay. That the relay's bytes
 * are the same at both ends when it is confirmed is relay.pml's.
 *
 * -DFAULT_...: mistakes put back, each of which the checker has to find (test_models.py).
 */

#ifndef RELAYS
#define RELAYS 1
#endif
#ifndef BYTES
#define BYTES 4
#endif
#ifndef TAGS
#define TAGS 3
#endif
#ifndef CUTS
#define CUTS 3
#endif
#ifndef OLD_MAX
#define OLD_MAX 1
#endif
#ifndef STRIKES
#define STRIKES 1
#endif
#ifndef KEYS_MAX
#define KEYS_MAX 2    /* keys of an assignment */
#endif
#define INVENTED 2    /* starts of the target that are invented while requests are to end */

#define EACH_RELAY(do_it) do_it(0) EACH_RELAY_1(do_it)
#if RELAYS > 1
#define EACH_RELAY_1(do_it) do_it(1)
#else
#define EACH_RELAY_1(do_it)
#endif
#define EACH_CUT(do_it) do_it(0) do_it(1) EACH_CUT_2(do_it) EACH_CUT_3(do_it)
#if CUTS > 2
#define EACH_CUT_2(do_it) do_it(2)
#else
#define EACH_CUT_2(do_it)
#endif
#if CUTS > 3
#define EACH_CUT_3(do_it) do_it(3)
#else
#define EACH_CUT_3(do_it)
#endif

mtype = { nothing, pending, confirmed, gone, asked, answered, ready, expecting, held };
mtype = { range, sae, unknown_relay };
mtype = { is_assigned, is_refused, is_started };

/* ---- the source, in memory -------------------------------------------------------------------------------------- */
#ifdef EARLY
#define AT_FIRST nothing
#define AT_FIRST_THERE nothing
#define IS_REBUILT false
#else
#define AT_FIRST confirmed
#define AT_FIRST_THERE held
#define IS_REBUILT true
#endif
mtype s_end[RELAYS] = AT_FIRST;             /* how far the relay is; gone: failed, or not known any more */
bool s_has[RELAYS] = IS_REBUILT;            /* whether what is not assigned of it is there */
byte s_byte[RELAYS], s_tag[RELAYS];         /* the cursor */
mtype s_cut[CUTS] = nothing;
byte s_next[CUTS];                          /* the first key that is not handed out */
byte cuts;                                  /* drawn, ever */

/* ---- assignments, as everybody may read them -------------------------------------------------------------------- */
byte a_relay[CUTS], a_byte[CUTS], a_tag[CUTS], a_keys[CUTS], a_pair[CUTS];

/* ---- the target's store, and a copy of it ----------------------------------------------------------------------- */
mtype t_relay[RELAYS] = AT_FIRST_THERE, old_relay[RELAYS];
byte t_byte[RELAYS], old_byte[RELAYS], t_tag[RELAYS], old_tag[RELAYS];   /* the first free ones */
bool t_knows[CUTS], old_knows[CUTS];
byte t_keys[CUTS], old_keys[CUTS];          /* keys that wait to be fetched, as bits */
byte t_gave[RELAYS], old_gave[RELAYS];      /* bytes that were fetched, as bits */
bool copied;
byte olds, strikes;
byte struck;                                /* the pair that is not in the target's directory, or 0 */

/* ---- what was sent and what the time is ------------------------------------------------------------------------- */
bool rebuilt[RELAYS] = IS_REBUILT;
#ifndef LYING
chan to_source = [3] of { mtype, byte, byte, byte, mtype };
byte told, incarnation;
#endif
byte over_s, over_t;                        /* assignments whose time is over at either end */
byte invented;
bool waits[3];                              /* requests, by pair */
byte requests;

/* ---- for the checks only ---------------------------------------------------------------------------------------- */
byte owner[RELAYS * BYTES];                 /* the pair that a byte belongs to, at whichever end */
byte s_gave[RELAYS];                        /* bytes that were handed out, as bits */
bool lost[CUTS];                            /* the target held its keys, and does not know it any more */
byte first_key[RELAYS * TAGS], second_key[RELAYS * TAGS];   /* what was tagged under them, or 0 */
/* A random run hands out in the order in which keys became ready, and cuts of the relay that the code would; it is to have
 * some time before it is over, to see little of what ends it, and steps that change nothing: of those the search has no
 * need.
 */
#ifdef TRACE
byte order[CUTS], clock, steps;
byte restarts;
#define SOME_TIME      (steps > 12)
#define LONG_AFTER     (steps > 40)
#define SOMETIMES      (steps % 3 == 2)
#define NOW_AND_THEN   (steps % 5 == 4)
#define SELDOM         (steps % 11 == 10)
#define MAY_RESTART    (LONG_AFTER && NOW_AND_THEN && restarts == 0)
#define RESTARTED      restarts++;
#define IN_VAIN(what)  :: d_step { steps % 7 == 6 && (what) ->
#else
#define SOME_TIME      (true)
#define LONG_AFTER     (true)
#define SOMETIMES      (true)
#define NOW_AND_THEN   (true)
#define SELDOM         (true)
#define MAY_RESTART    (true)
#define RESTARTED
#endif
hidden byte i;

#ifdef FAULT_TAG_KEY_IN_RANGE
#define APART 1       /* the first byte of an assignment is its tag keys */
#else
#define APART 0
#endif
#define IS_OPEN(a)      (s_cut[a] == asked || s_cut[a] == answered || s_cut[a] == ready)
#define BYTE_OF(a, key) (a_byte[a] + APART + (key))
#define BIT(number)     (1 << (number))

#define PAIR_OF_KEYS(a) (a_relay[a] * TAGS + a_tag[a])
#define TAG(with, what, a) \
  assert(with[PAIR_OF_KEYS(a)] == 0 || with[PAIR_OF_KEYS(a)] == (what)); with[PAIR_OF_KEYS(a)] = (what)

inline belongs(relay, first, number, pair) {
  i = 0;
  do
  :: i < number ->
       assert(owner[(relay) * BYTES + (first) + i] == 0 || owner[(relay) * BYTES + (first) + i] == (pair));
       owner[(relay) * BYTES + (first) + i] = (pair); i++
  :: else -> break
  od;
  i = 0
}

/* After each step: what is there, for whoever follows a simulation; and whether what a test wants to be reached is. */
inline print_state() {
#ifdef REACH
  assert(!(REACH));
#endif
#ifdef TRACE
  steps++;
  i = 0;
  do
  :: i < RELAYS ->
       printf("STATE relay=%d end=%e has=%d cursor=%d,%d there=%e free=%d,%d\n", i, s_end[i], s_has[i], s_byte[i], s_tag[i],
         t_relay[i], t_byte[i], t_tag[i]);
       i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < cuts -> printf("CUT cut=%d is=%e next=%d known=%d keys=%d\n", i, s_cut[i], s_next[i], t_knows[i], t_keys[i]); i++
  :: else -> break
  od;
  i = 0
#else
  skip
#endif
}

/* ---- the source ------------------------------------------------------------------------------------------------- */

/* The bytes and the tag are taken in the commit that has the assignment leave, whatever comes of it. */
inline cut(relay, pair, keys) {
  printf("STEP cut relay=%d pair=%d keys=%d\n", relay, pair, keys);
  a_relay[cuts] = relay; a_byte[cuts] = s_byte[relay]; a_tag[cuts] = s_tag[relay];
  a_keys[cuts] = keys; a_pair[cuts] = pair;
  s_byte[relay] = s_byte[relay] + keys + APART; s_tag[relay]++;
  s_cut[cuts] = asked;
  TAG(first_key, cuts + 1, cuts);
  belongs(relay, BYTE_OF(cuts, 0), keys, pair);
  cuts++;
  print_state()
}
#if defined(TRACE) && RELAYS > 1
#define CAN(relay, is)  (s_has[relay] && s_end[relay] == is && s_byte[relay] < BYTES && s_tag[relay] < TAGS)
#define ANY(relay)      (CAN(relay, pending) || CAN(relay, confirmed))
#define IS_NEXT(relay)  (CAN(relay, confirmed) && (relay == 0 || !CAN(0, confirmed)) || \
  CAN(relay, pending) && !CAN(0, confirmed) && !CAN(1, confirmed) && (relay == 0 || !ANY(0)))
#else
#define IS_NEXT(relay)  (true)
#endif
#define MAY_CUT(relay, keys) \
  (cuts < CUTS && IS_NEXT(relay) && keys <= KEYS_MAX && s_has[relay] && s_byte[relay] + keys + APART <= BYTES && s_tag[relay] < TAGS)
/* Where nothing tells the pairs apart, the first of them is called 1. */
#if STRIKES > 0
#define IS_OTHER (true)
#else
#define IS_OTHER (cuts > 0)
#endif
#define CUT(relay) \
  :: d_step { MAY_CUT(relay, 1) -> cut(relay, 1, 1) } \
  :: d_step { MAY_CUT(relay, 2) -> cut(relay, 1, 2) } \
  :: d_step { MAY_CUT(relay, 1) && IS_OTHER -> cut(relay, 2, 1) } \
  :: d_step { MAY_CUT(relay, 2) && IS_OTHER -> cut(relay, 2, 2) }

inline loses_supply(relay) {
  s_has[relay] = false; s_byte[relay] = 0; s_tag[relay] = 0
}

inline is_gone(a) {
  s_cut[a] = gone;
  /* For nobody any more: so that states which differ in nothing else are one. */
  s_next[a] = 0; lost[a] = false
}

/* Keys are ready once the relay is confirmed and the assignment answered, in either order. */
inline settle(a) {
  if
  :: s_cut[a] == answered && s_end[a_relay[a]] == confirmed ->
       if
       :: a < over_s -> is_gone(a)
       :: else -> s_cut[a] = ready
#ifdef TRACE
          ; clock++; order[a] = clock
#endif
       fi
  :: else
  fi
}

inline is_answered(a) {
  if
  :: s_cut[a] == asked -> s_cut[a] = answered; settle(a)
  :: else
  fi
}

inline is_confirmed(relay) {
  s_end[relay] = confirmed;
  i = 0;
  do
  :: i < cuts ->
       if
       :: a_relay[i] == relay -> settle(i)
       :: else
       fi;
       i++
  :: else -> break
  od;
  i = 0
}

#ifdef FAULT_HINT_LOWERS
#define HEED(now, hint) (hint)
#else
#define HEED(now, hint) ((hint) > (now) -> (hint) : (now))
#endif

/* Nobody vouches for a refusal: all that can come of it is less. */
inline is_refused_for(a, why, hint_byte, hint_tag) {
  if
  :: s_cut[a] == asked || s_cut[a] == answered ->
       is_gone(a);
       if
       :: why == unknown_relay && s_has[a_relay[a]] ->
            loses_supply(a_relay[a])
       :: why != unknown_relay && s_has[a_relay[a]] ->
            s_byte[a_relay[a]] = HEED(s_byte[a_relay[a]], hint_byte);
            s_tag[a_relay[a]] = HEED(s_tag[a_relay[a]], hint_tag)
       :: else
       fi;
       if
       :: why == sae -> burn_ready(a_pair[a])
       :: else
       fi
  :: else
  fi
}

inline burn_ready(pair) {
  i = 0;
  do
  :: i < cuts ->
       if
       :: s_cut[i] == ready && a_pair[i] == pair -> is_gone(i)
       :: else
       fi;
       i++
  :: else -> break
  od;
  i = 0
}

inline fails(relay) {
  s_end[relay] = gone; loses_supply(relay);
  i = 0;
  do
  :: i < cuts ->
       if
       :: a_relay[i] == relay && (s_cut[i] == asked || s_cut[i] == answered) -> is_gone(i)
       :: else
       fi;
       i++
  :: else -> break
  od;
  i = 0
}

/* What is ready is in question, and is asked for again. */
inline target_has_started() {
  i = 0;
  do
  :: i < cuts ->
       if
#ifndef FAULT_HANDS_OUT_UNANSWERED
       :: s_cut[i] == ready || s_cut[i] == answered -> s_cut[i] = asked
#endif
       :: else
       fi;
       i++
  :: else -> break
  od;
  i = 0
}

inline source_starts() {
  i = 0;
  do
  :: i < cuts ->
#ifdef FAULT_READY_IN_STORE
       if
       :: s_cut[i] == ready -> s_next[i] = 0
       :: else -> is_gone(i)
       fi;
#else
       is_gone(i);
#endif
       i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < RELAYS ->
       if
       :: s_end[i] != nothing -> s_end[i] = gone; loses_supply(i)
       :: else
       fi;
       i++
  :: else -> break
  od;
  i = 0
}

#ifdef TRACE
#define IS_OLDEST(a) ((s_cut[0] != ready || a_pair[0] != a_pair[a] || order[0] >= order[a]) && \
  (s_cut[1] != ready || a_pair[1] != a_pair[a] || order[1] >= order[a]) && \
  (s_cut[2] != ready || a_pair[2] != a_pair[a] || order[2] >= order[a]))
#else
#define IS_OLDEST(a) (true)
#endif
#ifdef LYING
#define IS_EXCUSED(a) (lost[a])
#else
#define IS_EXCUSED(a) (lost[a] && told != incarnation)
#endif
#ifdef LIVE
#define IS_ASKED_FOR(pair) (waits[pair])
#else
#define IS_ASKED_FOR(pair) (true)
#endif

inline hand_out(a) {
  printf("STEP hand out cut=%d key=%d\n", a, s_next[a]);
  assert(!(s_gave[a_relay[a]] & BIT(BYTE_OF(a, s_next[a]))));
  s_gave[a_relay[a]] = s_gave[a_relay[a]] | BIT(BYTE_OF(a, s_next[a]));
  assert((t_keys[a] & BIT(s_next[a])) || (t_gave[a_relay[a]] & BIT(BYTE_OF(a, s_next[a]))) || IS_EXCUSED(a));
  waits[a_pair[a]] = false;
  s_next[a]++;
  if
  :: s_next[a] == a_keys[a] -> is_gone(a)
  :: else
  fi;
  print_state()
}
#define HAND_OUT(a) :: d_step { s_cut[a] == ready && IS_ASKED_FOR(a_pair[a]) && IS_OLDEST(a) -> hand_out(a) }

#define VAIN_AT_THE_SOURCE(a) \
  IN_VAIN(a < cuts && s_cut[a] != asked && second_key[PAIR_OF_KEYS(a)] != 0) \
    printf("STEP answer again cut=%d\n", a); print_state() } \
  IN_VAIN(a < cuts && s_cut[a] != asked && s_cut[a] != answered) \
    printf("STEP refuse again cut=%d\n", a); print_state() } \
  IN_VAIN(a < cuts) printf("STEP answer forged cut=%d\n", a); print_state() }

#define CONFIRM(relay) \
  :: d_step { s_end[relay] == pending && rebuilt[relay] -> \
       printf("STEP confirm relay=%d\n", relay); is_confirmed(relay); print_state() }
#define FAIL(relay) \
  :: d_step { s_end[relay] == pending && SELDOM -> printf("STEP fail relay=%d\n", relay); fails(relay); print_state() }
/* Relays begin one after the other. */
#define BEGIN(relay) \
  :: d_step { s_end[relay] == nothing && (relay == 0 || s_end[relay - (relay > 0)] != nothing) -> \
       printf("STEP begin relay=%d\n", relay); \
       s_end[relay] = pending; s_has[relay] = true; t_relay[relay] = expecting; print_state() }

#ifdef LYING
#ifdef FAULT_ANSWER_UNTAGGED
#define IS_VALID(a) (cuts > a)
#else
#define IS_VALID(a) (second_key[PAIR_OF_KEYS(a)] != 0)
#endif
/* Any answer that there ever was; any refusal. */
#define HEAR(a) \
  :: d_step { s_cut[a] == asked && IS_VALID(a) -> printf("STEP answer cut=%d\n", a); is_answered(a); print_state() } \
  :: d_step { (s_cut[a] == asked || s_cut[a] == answered) && SOMETIMES -> \
       printf("STEP refuse cut=%d why=range hint=%d,%d\n", a, a_byte[a], a_tag[a]); \
       is_refused_for(a, range, a_byte[a], a_tag[a]); print_state() } \
  :: d_step { (s_cut[a] == asked || s_cut[a] == answered) && SOMETIMES -> \
       printf("STEP refuse cut=%d why=range hint=%d,0\n", a, BYTES - 1); \
       is_refused_for(a, range, BYTES - 1, 0); print_state() } \
  :: d_step { (s_cut[a] == asked || s_cut[a] == answered) && SOMETIMES -> \
       printf("STEP refuse cut=%d why=range hint=0,%d\n", a, TAGS - 1); \
       is_refused_for(a, range, 0, TAGS - 1); print_state() } \
  :: d_step { (s_cut[a] == asked || s_cut[a] == answered) && SOMETIMES -> \
       printf("STEP refuse cut=%d why=sae hint=0,0\n", a); is_refused_for(a, sae, 0, 0); print_state() } \
  :: d_step { (s_cut[a] == asked || s_cut[a] == answered) && SOMETIMES -> \
       printf("STEP refuse cut=%d why=unknown-relay hint=0,0\n", a); is_refused_for(a, unknown_relay, 0, 0); print_state() }
#if defined(LIVE) || defined(TRACE)
#define MAY_INVENT (invented < INVENTED)
#else
#define MAY_INVENT (true)
#endif
#endif

/* The network may bring nothing more to anybody: fairness makes clocks go, and delivers no message. */
#ifdef LIVE
#define OR_NOTHING :: olds <= OLD_MAX
#else
#define OR_NOTHING
#endif

active proctype source() {
#ifndef LYING
  byte a, hint_byte, hint_tag;
  mtype why;
#endif
end:
  do
  EACH_RELAY(BEGIN)
  EACH_RELAY(CUT)
  EACH_RELAY(CONFIRM)
  EACH_CUT(HAND_OUT)
#ifdef LYING
  EACH_CUT(HEAR)
  :: d_step { MAY_INVENT && cuts > 0 -> printf("STEP peer started\n");
#if defined(LIVE) || defined(TRACE)
       invented++;
#endif
       target_has_started(); print_state() }
#else
  :: d_step { to_source?is_assigned(a, _, _, _) ->
       printf("STEP answer cut=%d\n", a); is_answered(a); a = 0; print_state() }
  :: d_step { to_source?is_refused(a, hint_byte, hint_tag, why) ->
       printf("STEP refuse cut=%d why=%e hint=%d,%d\n", a, why, hint_byte, hint_tag);
       is_refused_for(a, why, hint_byte, hint_tag); a = 0; hint_byte = 0; hint_tag = 0; why = 0; print_state() }
  :: d_step { to_source?is_started(a, _, _, _) ->
       printf("STEP peer started\n"); told = a; a = 0; target_has_started(); print_state() }
#endif
#ifdef TRACE
  EACH_CUT(VAIN_AT_THE_SOURCE)
#endif
  OR_NOTHING
  od
}

/* ---- the target ------------------------------------------------------------------------------------------------- */

#ifdef LYING
#define MAY_SAY      (true)
#define SAY_ASSIGNED(a) skip              /* the coordinator may say it from now on */
#define SAY_REFUSED(a, why) skip   /* that anything may be refused, the coordinator says itself */
#else
#define MAY_SAY      (len(to_source) < 3)
#define SAY_ASSIGNED(a) to_source!is_assigned(a, 0, 0, 0)
#define SAY_REFUSED(a, why) to_source!is_refused(a, t_byte[a_relay[a]], t_tag[a_relay[a]], why)
#endif
#ifdef FAULT_ANSWER_TAG_NAMES_START
#define ANSWER(a) (1 + (a) + 16 * olds)
#else
#define ANSWER(a) (1 + (a))
#endif

#define IS_FREE(a) (a_byte[a] >= t_byte[a_relay[a]] && a_tag[a] >= t_tag[a_relay[a]])

inline keeps(a) {
  t_byte[a_relay[a]] = a_byte[a] + APART + a_keys[a];
  t_tag[a_relay[a]] = a_tag[a] + 1;
  t_knows[a] = true; t_keys[a] = BIT(a_keys[a]) - 1; lost[a] = false;
  belongs(a_relay[a], BYTE_OF(a, 0), a_keys[a], a_pair[a])
}

/* An assignment that is known gets the same answer; a new one is above the marks, or refused. */
inline gets(a) {
  printf("STEP assign cut=%d\n", a);
  if
  :: t_knows[a] -> TAG(second_key, ANSWER(a), a); SAY_ASSIGNED(a)
  :: !t_knows[a] && t_relay[a_relay[a]] != held -> SAY_REFUSED(a, unknown_relay)
  :: !t_knows[a] && t_relay[a_relay[a]] == held && (!IS_FREE(a) || a < over_t) -> SAY_REFUSED(a, range)
  :: !t_knows[a] && t_relay[a_relay[a]] == held && IS_FREE(a) && a >= over_t && struck == a_pair[a] ->
       SAY_REFUSED(a, sae)
  :: !t_knows[a] && t_relay[a_relay[a]] == held && IS_FREE(a) && a >= over_t && struck != a_pair[a] ->
       keeps(a); TAG(second_key, ANSWER(a), a); SAY_ASSIGNED(a)
  fi;
  print_state()
}
#ifdef TRACE
#define IS_NEWS(a) (!t_knows[a] || NOW_AND_THEN)
#else
#define IS_NEWS(a) (true)
#endif
#define GET(a) \
  :: d_step { a < cuts && MAY_SAY && (t_knows[a] || t_relay[a_relay[a]] != expecting) && IS_NEWS(a) -> gets(a) }

inline fetch(a, key) {
  printf("STEP fetch cut=%d key=%d\n", a, key);
  assert(!(t_gave[a_relay[a]] & BIT(BYTE_OF(a, key))));
  t_gave[a_relay[a]] = t_gave[a_relay[a]] | BIT(BYTE_OF(a, key));
  t_keys[a] = t_keys[a] & ~BIT(key);
  print_state()
}
#define FETCH(a) \
  :: d_step { t_keys[a] & 1 -> fetch(a, 0) } \
  :: d_step { t_keys[a] & 2 -> fetch(a, 1) }

/* What was assigned stays so, whatever becomes of it. */
inline forgets(a) {
  t_knows[a] = false; t_keys[a] = 0;
#ifdef FAULT_MARK_FALLS
  if
  :: t_byte[a_relay[a]] > a_byte[a] -> t_byte[a_relay[a]] = a_byte[a]; t_tag[a_relay[a]] = a_tag[a]
  :: else
  fi;
#endif
}

#define REBUILD(relay) \
  :: d_step { t_relay[relay] == expecting && s_end[relay] != nothing -> \
       printf("STEP rebuild relay=%d\n", relay); \
       t_relay[relay] = held; rebuilt[relay] = true; print_state() }

/* Mistakes that let an assignment through which the source has not made. */
#if defined(LYING) && defined(FAULT_REPEAT_WITH_OTHER_PAIR)
#define ALTERED(a) :: d_step { t_knows[a] -> belongs(a_relay[a], BYTE_OF(a, 0), a_keys[a], 3 - a_pair[a]) }
#else
#define ALTERED(a)
#endif
#if defined(LYING) && defined(FAULT_TAG_KEY_IN_RANGE)
/* Bytes that pair 1 was given are known to the coordinator; it takes one for the tag keys of what comes behind it. */
#define KNOWN(at) (owner[at] == 1 && ((s_gave[0] | t_gave[0]) & BIT(at)))
#define FORGE(at) \
  :: d_step { KNOWN(at) && t_relay[0] == held && t_byte[0] <= at -> t_byte[0] = at + 3; belongs(0, at + 1, 2, 1) }
#else
#define FORGE(at)
#endif

#define VAIN_AT_THE_TARGET(a) \
  IN_VAIN(a < cuts && t_relay[a_relay[a]] != expecting) printf("STEP assign altered cut=%d\n", a); print_state() } \
  IN_VAIN(a < cuts && !(t_keys[a] & 1)) printf("STEP fetch in vain cut=%d key=0\n", a); print_state() }

active proctype target() {
end:
  do
  EACH_RELAY(REBUILD)
  EACH_CUT(GET)
  EACH_CUT(FETCH)
  EACH_CUT(ALTERED)
  FORGE(0)
  FORGE(1)
#ifdef TRACE
  EACH_CUT(VAIN_AT_THE_TARGET)
#endif
#ifndef LYING
  :: d_step { 0 < cuts && MAY_SAY && NOW_AND_THEN && !t_knows[0] && t_relay[a_relay[0]] == held ->
       printf("STEP assign cut=0 full\n"); SAY_REFUSED(0, range); print_state() }
#endif
  OR_NOTHING
  od
}

/* ---- the network ------------------------------------------------------------------------------------------------ */
#ifndef LYING
active proctype network() {
end:
  do
  :: d_step { NOW_AND_THEN && len(to_source) > 0 -> to_source?_, _, _, _, _; printf("STEP lost\n"); print_state() }
  od
}
#endif

/* ---- time ------------------------------------------------------------------------------------------------------- */

inline passes_at_the_source() {
  printf("STEP source over cut=%d\n", over_s);
  if
  :: s_cut[over_s] == ready -> is_gone(over_s)
  :: else
  fi;
  over_s++;
  print_state()
}

#ifdef FAULT_DELETES_TOO_SOON
#define MAY_DELETE (over_t < cuts)
#else
#define MAY_DELETE (over_t < over_s)
#endif

#ifdef TIME
active proctype clock_of_the_source() {
end:
  do
  :: d_step { over_s < cuts && SOME_TIME && SELDOM -> passes_at_the_source() }
  od
}

active proctype clock_of_the_target() {
end:
  do
  :: d_step { MAY_DELETE -> printf("STEP target over cut=%d\n", over_t); forgets(over_t); over_t++; print_state() }
  od
}

#endif

/* An assignment that was sent often enough is given up, and so is a relay that nobody confirms. */
#define GIVE_UP(a) \
  :: d_step { s_cut[a] == asked || (s_cut[a] == answered && s_end[a_relay[a]] == confirmed) -> \
       printf("STEP give up cut=%d\n", a); is_gone(a); print_state() }
active proctype patience_of_the_source() {
end:
  do
#if !defined(FAULT_ASKS_FOR_EVER) && !defined(TRACE)
  EACH_CUT(GIVE_UP)
#endif
  EACH_RELAY(FAIL)
  od
}

/* ---- starts, and old copies of the target's store ---------------------------------------------------------------- */

#ifdef LYING
#define NEW_START skip
#define MAY_START (true)
#else
#define NEW_START incarnation++; to_source!is_started(incarnation, 0, 0, 0)
#define MAY_START (len(to_source) < 3)
#endif

inline copies() {
  copied = true;
  i = 0;
  do
  :: i < CUTS -> old_knows[i] = t_knows[i]; old_keys[i] = t_keys[i]; i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < RELAYS ->
       old_relay[i] = t_relay[i]; old_byte[i] = t_byte[i]; old_tag[i] = t_tag[i]; old_gave[i] = t_gave[i]; i++
  :: else -> break
  od;
  i = 0
}

inline no_copy() {
  copied = false;
  do
  :: i < CUTS -> old_knows[i] = false; old_keys[i] = 0; i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < RELAYS -> old_relay[i] = 0; old_byte[i] = 0; old_tag[i] = 0; old_gave[i] = 0; i++
  :: else -> break
  od;
  i = 0
}

inline comes_back() {
  i = 0;
  do
  :: i < CUTS ->
       if
       :: t_knows[i] && !old_knows[i] && IS_OPEN(i) -> lost[i] = true
       :: else
       fi;
       t_knows[i] = old_knows[i] && i >= over_t;
       t_keys[i] = (i >= over_t -> old_keys[i] : 0);
       /* What was struck off since is struck off by the directory, which is no part of the store. */
       if
       :: t_knows[i] && struck == a_pair[i] -> lost[i] = IS_OPEN(i); forgets(i)
       :: else
       fi;
       i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < RELAYS ->
       t_relay[i] = old_relay[i]; t_byte[i] = old_byte[i]; t_tag[i] = old_tag[i]; t_gave[i] = old_gave[i]; i++
  :: else -> break
  od;
  i = 0;
  if
  :: olds == OLD_MAX -> no_copy()   /* any more: so that states which differ in nothing else are one */
  :: else
  fi
}

inline strike_off(pair) {
  struck = pair; strikes++;
  i = 0;
  do
  :: i < cuts ->
       if
       :: a_pair[i] == pair && t_knows[i] -> lost[i] = IS_OPEN(i); forgets(i)
       :: else
       fi;
       i++
  :: else -> break
  od;
  i = 0
}

active proctype fate() {
end:
  do
  :: d_step { s_end[0] != nothing && MAY_RESTART ->
       printf("STEP source restart\n"); RESTARTED source_starts(); print_state() }
  :: d_step { olds < OLD_MAX && NOW_AND_THEN -> printf("STEP target copy\n"); copies(); print_state() }
  :: d_step { copied && olds < OLD_MAX && MAY_START && SOME_TIME && NOW_AND_THEN ->
       printf("STEP target restore\n"); olds++; comes_back(); NEW_START; print_state() }
  :: d_step { strikes < STRIKES && struck == 0 && MAY_START && SOME_TIME && NOW_AND_THEN ->
       printf("STEP strike pair=2\n"); strike_off(2); NEW_START; print_state() }
  :: d_step { struck != 0 -> printf("STEP take in\n"); struck = 0; print_state() }
  OR_NOTHING
  od
}

/* ---- requests --------------------------------------------------------------------------------------------------- */
#ifdef LIVE
active proctype masters() {
end:
  do
  :: d_step { requests < 2 && !waits[1] -> requests++; waits[1] = true }
  :: d_step { requests < 2 && !waits[2] -> requests++; waits[2] = true }
  OR_NOTHING
  od
}

#ifdef FAULT_WAITS_FOR_EVER
#define IS_PATIENT (requests == 0)
#else
#define IS_PATIENT (true)
#endif

active proctype patience_of_masters() {
end:
  do
  :: d_step { waits[1] && IS_PATIENT -> waits[1] = false }
  :: d_step { waits[2] && IS_PATIENT -> waits[2] = false }
  od
}

#define IS_UNSETTLED(a) (s_cut[a] == asked || s_cut[a] == answered)
#if CUTS > 2
#define IS_UNSETTLED_2 IS_UNSETTLED(2)
#else
#define IS_UNSETTLED_2 false
#endif
ltl ends { <> [] (!waits[1] && !waits[2] && !IS_UNSETTLED(0) && !IS_UNSETTLED(1) && !IS_UNSETTLED_2) }
#endif
