/* The confirmation of a relay: when may which end use its keys? (docs/protocol.md, sections 5 and 6)
 *
 * Modelled: one relay id; its source, its target, the coordinator; what an end keeps, and what each message does. A source
 * that begins anew draws another payload (a version). Terms come in two kinds, since a lying coordinator may tell the
 * two ends different ones. Three clocks that go as they like: an end's deadline may pass first or last.
 *
 * The network keeps every message for ever and delivers it to whom it is for as often as it likes, in any order, or
 * never. That is more than loss, repetition, reordering and delay can do, and more than numbers of messages let through;
 * so whatever holds here holds with any of them. What a broker, or who is on the way, can do without a key is the same.
 *
 * Stores: each step is one commit, so a crash before it is that it was not made, and one after it changes nothing but
 * what is in memory only: the payload of supply, at its source. At any time a copy of an end's store may be taken, and
 * the end may later be started again from it, OLD_MAX times in all.
 *
 *   -DLYING   the coordinator tells any end anything at any time that it can form: it knows every public message, but
 *             neither payloads nor confirmation keys, so that it passes proofs on, or invents such as are not valid.
 *             Without it, it keeps to coordinator.lifecycle, over the same network.
 *   -DSUPPLY  the relay is supply; without it, keys that a person lists.
 *   -DLIVE    has the clocks run: every relay ends (ltl ends, under weak fairness).
 *
 * Checked: where the source uses keys, the target holds the same under the same terms, or held them before it came back
 * with an old copy; no byte of supply comes into use twice; what an honest coordinator calls failed is not in use at a
 * source that has its store, what it calls delivered is at both ends.
 *
 * Left out: shares and the KMEs on the way (a set of them gives one payload, that of one version, or none: the AMD code
 * and the plan see to that, and tests/attack tries it); rooms, limits and refusals of terms, which are steps that are not
 * made; reminders, since every message may come again anyway; kme forget and the end of supply's time at the target,
 * which come after all use (assignment.pml has the latter).
 *
 * -DFAULT_...: mistakes put back, each of which the checker has to find (test_models.py).
 */

#define VERSIONS 3   /* payloads that a source draws at most */
#ifndef OLD_MAX
#define OLD_MAX  3   /* starts from old copies, of both ends together */
#endif

mtype = { none, expecting, pending, held, delivered, failed };
mtype = { idle, begun, confirmed, given_up };

/* What an end keeps, and a copy of it. */
mtype s_state = none, s_copy = none, t_state = none, t_copy = none;
byte s_version, s_copy_version, t_version, t_copy_version;
bit s_terms, s_copy_terms, t_terms, t_copy_terms;
bool s_copied, t_copied;

mtype k_state = idle;
bool k_source_done;
byte k_version;
bit k_terms;

/* What was sent. */
bool sent_begin, sent_cancel, sent_deliver, sent_confirm;
bool share[VERSIONS];
bool proof[6];      /* by version * 2 + terms: rebuilt reports */
bool said_confirmed, said_refused_s, said_refused_t;

bool late_s, late_t, late_c;
byte drawn;         /* versions so far */
byte olds;

/* For the checks only. */
bool s_old, t_old;
bool lost[6];       /* by version and terms: held once by the target, until it came back with an old copy */
bool used[VERSIONS];

#define PLACE(version, terms) ((version) * 2 + (terms))
#define T_HOLDS               (t_state == held || t_state == delivered)
#define HOLDS(version, terms) (T_HOLDS && t_version == (version) && t_terms == (terms))
#define AT(kind)              (s_state == kind)

/* The network may bring nothing more to anybody: fairness makes clocks go, and delivers no message. */
#ifdef LIVE
#define OR_NOTHING :: olds <= OLD_MAX
#else
#define OR_NOTHING
#endif

/* The source, in the target's and the coordinator's absence, has not released what they do not stand for. */
inline check() {
#ifdef REACH
  assert(!(REACH));
#endif
  assert(s_state != delivered || HOLDS(s_version, s_terms) || lost[PLACE(s_version, s_terms)]);
#ifndef LYING
  assert(!(k_state == given_up && s_state == delivered) || s_old);
  assert(t_state != delivered || s_state == delivered || s_old);
#endif
  printf("STATE source=%e/%d target=%e/%d coordinator=%e said=%d%d%d\n", s_state, s_version, t_state, t_version, k_state,
    said_confirmed, said_refused_s, said_refused_t);
#ifdef TRACE
  steps++
#endif
}

/* A random run is to have some time before it is over, and not only copies. */
#ifdef TRACE
byte steps, copies;
#define SOME_TIME (steps > 8)
#define NOW_AND_THEN (steps % 4 == 3)
#define MAY_COPY  (olds < OLD_MAX && copies < 2 * (olds + 1))
#define COPIED    copies++;
/* It is to see steps, too, that change nothing: of those the search has no need. */
#define IS_VAIN       NOW_AND_THEN
#define IN_VAIN(what) :: d_step { NOW_AND_THEN && (what) ->
#else
#define SOME_TIME (true)
#define NOW_AND_THEN (true)
#define MAY_COPY  (olds < OLD_MAX)
#define COPIED
#define IS_VAIN   false
#endif

/* ---- the source ------------------------------------------------------------------------------------------------ */

inline begins(of_terms) {
  s_state = pending; s_version = drawn; s_terms = of_terms; share[drawn] = true; drawn++;
  printf("STEP start terms=%d\n", of_terms);
  check()
}

/* A proof that is valid is that of this payload under these terms. */
#ifdef FAULT_TERMS
#define VALID(version, terms) (s_version == (version))
#else
#define VALID(version, terms) (s_version == (version) && s_terms == (terms))
#endif

inline is_told_confirm(is_valid) {
  if
  :: s_state == delivered -> said_confirmed = true
  :: s_state == pending && (is_valid) ->
#ifdef SUPPLY
       assert(!used[s_version]);
#endif
       used[s_version] = true;
       s_state = delivered; said_confirmed = true
  :: s_state == pending && !(is_valid) -> s_state = failed; said_refused_s = true
  :: else -> said_refused_s = true
  fi;
}

#ifdef LYING
#define MAY_CONFIRM(version, terms) (proof[PLACE(version, terms)])
#define MAY_BEGIN(terms)            (true)
#define MAY_CANCEL                  (NOW_AND_THEN)
#ifdef SUPPLY
#define MAY_DELIVER                 (false)   /* it is nobody's to list */
#else
#define MAY_DELIVER                 (true)
#endif
#else
#define MAY_CONFIRM(version, terms) (sent_confirm && k_version == (version) && k_terms == (terms))
#define MAY_BEGIN(terms)            (sent_begin && (terms) == 0)
#define MAY_CANCEL                  (sent_cancel)
#define MAY_DELIVER                 (sent_deliver)
#endif

/* Else it changes nothing. */
#define HEARS (AT(pending) || (AT(delivered) && !said_confirmed) || (!AT(delivered) && !said_refused_s) || IS_VAIN)
#define CONFIRM(version, terms) \
  :: d_step { MAY_CONFIRM(version, terms) && HEARS -> \
       printf("STEP confirm version=%d terms=%d\n", version, terms); \
       is_told_confirm(VALID(version, terms)); check() }

active proctype source() {
end:
  do
  :: d_step { AT(none) && !late_s && drawn < VERSIONS && MAY_BEGIN(0) -> begins(0) }
  :: d_step { AT(none) && !late_s && drawn < VERSIONS && MAY_BEGIN(1) -> begins(1) }
  :: d_step { AT(failed) && !said_refused_s && (MAY_BEGIN(0) || MAY_BEGIN(1)) ->
       printf("STEP start again\n"); said_refused_s = true; check() }
  CONFIRM(0, 0)
  CONFIRM(0, 1)
  CONFIRM(1, 0)
  CONFIRM(1, 1)
  CONFIRM(2, 0)
  CONFIRM(2, 1)
#ifdef LYING
  :: d_step { HEARS && NOW_AND_THEN -> printf("STEP confirm forged\n");
#ifdef FAULT_NO_PROOF
       is_told_confirm(true);
#else
       is_told_confirm(false);
#endif
       check() }
#endif
  :: d_step { AT(pending) && MAY_CANCEL -> printf("STEP source cancel\n"); s_state = failed; check() }
#ifdef TRACE
  IN_VAIN(!AT(pending) && MAY_CANCEL) printf("STEP source cancel\n"); check() }
  IN_VAIN((AT(pending) || AT(delivered)) && MAY_BEGIN(s_terms))
    printf("STEP start repeated terms=%d\n", s_terms); check() }
#endif
  OR_NOTHING
  od
}

/* ---- the target ------------------------------------------------------------------------------------------------ */

inline expects(of_terms) {
  printf("STEP expect terms=%d\n", of_terms);
  t_state = expecting; t_terms = of_terms; check()
}

inline rebuilds(version) {
  printf("STEP rebuild version=%d\n", version);
  t_state = held; t_version = version; proof[PLACE(version, t_terms)] = true; check()
}

active proctype target() {
end:
  do
  :: d_step { t_state == none && !late_t && MAY_BEGIN(0) -> expects(0) }
  :: d_step { t_state == none && !late_t && MAY_BEGIN(1) -> expects(1) }
  :: d_step { t_state == failed && !said_refused_t && (MAY_BEGIN(0) || MAY_BEGIN(1)) ->
       printf("STEP expect again\n"); said_refused_t = true; check() }
  :: d_step { t_state == expecting && share[0] -> rebuilds(0) }
  :: d_step { t_state == expecting && share[1] -> rebuilds(1) }
  :: d_step { t_state == expecting && share[2] -> rebuilds(2) }
#ifdef FAULT_PROOF_BEFORE_COMMIT
  :: d_step { t_state == expecting && share[0] -> proof[PLACE(0, t_terms)] = true }
#endif
#ifdef FAULT_GIVES_UP_RELEASED
  :: d_step { (t_state == expecting || t_state == held) && MAY_CANCEL ->
#else
  :: d_step { t_state == expecting && MAY_CANCEL ->
#endif
       printf("STEP target cancel\n"); t_state = failed; check() }
  :: d_step { t_state == held && MAY_DELIVER -> printf("STEP deliver\n"); t_state = delivered; check() }
#ifdef TRACE
  IN_VAIN(t_state != expecting && MAY_CANCEL) printf("STEP target cancel\n"); check() }
  IN_VAIN((t_state == expecting || T_HOLDS) && MAY_BEGIN(t_terms))
    printf("STEP expect repeated terms=%d\n", t_terms); check() }
  IN_VAIN(t_state != expecting && t_state != none && drawn > 0)
    printf("STEP share late version=%d\n", drawn - 1); check() }
  IN_VAIN(t_state != held && MAY_DELIVER) printf("STEP deliver\n"); check() }
#endif
  OR_NOTHING
  od
}

/* ---- the coordinator ------------------------------------------------------------------------------------------- */

#ifndef LYING
inline hears_proof(version, of_terms) {
  printf("STEP coordinator rebuilt version=%d terms=%d\n", version, of_terms);
  k_version = version; k_terms = of_terms; sent_confirm = true;
  if
  :: k_state == begun -> k_state = confirmed
  :: else
  fi;
  check()
}

/* One that has said "failed" passes no proof on. The first proof counts. */
#ifdef FAULT_FAILED_PASSES_ON
#define HEEDS (k_state == begun || (k_state == given_up && !sent_confirm))
#else
#define HEEDS (k_state == begun)
#endif
#define PROOF(version, terms) \
  :: d_step { HEEDS && proof[PLACE(version, terms)] -> hears_proof(version, terms) }

active proctype coordinator() {
end:
  do
  :: d_step { k_state == idle -> printf("STEP coordinator begin\n"); k_state = begun; sent_begin = true; check() }
  PROOF(0, 0)
  PROOF(1, 0)
  PROOF(2, 0)
  :: d_step { k_state == confirmed && !k_source_done && said_confirmed ->
       printf("STEP coordinator confirmed\n"); k_source_done = true;
#ifndef SUPPLY
       sent_deliver = true;
#endif
       check() }
  :: d_step { k_state == confirmed && !k_source_done && said_refused_s ->
       printf("STEP coordinator refused late\n"); k_state = given_up; check() }
  :: d_step { k_state == begun && said_refused_s ->
       printf("STEP coordinator refused by=source\n"); k_state = given_up; sent_cancel = true; check() }
  :: d_step { k_state == begun && said_refused_t ->
       printf("STEP coordinator refused by=target\n"); k_state = given_up; sent_cancel = true; check() }
#ifdef TRACE
  IN_VAIN(k_state == given_up && proof[0]) printf("STEP coordinator overtaken by=rebuilt\n"); check() }
  IN_VAIN(k_state == given_up && said_confirmed) printf("STEP coordinator overtaken by=confirmed\n"); check() }
  IN_VAIN(k_state == confirmed && k_source_done && said_refused_s)
    printf("STEP coordinator overtaken by=refused\n"); check() }
  IN_VAIN(k_state == confirmed && said_refused_t) printf("STEP coordinator overtaken by=refused-target\n"); check() }
  IN_VAIN(k_state == confirmed) printf("STEP coordinator overtaken by=time\n"); check() }
#endif
  OR_NOTHING
  od
}

active proctype clock_of_the_coordinator() {
end:
  do
  :: d_step { !late_c && SOME_TIME -> late_c = true }
  :: d_step { late_c && k_state == begun ->
       printf("STEP coordinator late\n"); k_state = given_up; sent_cancel = true; check() }
  od
}
#endif

/* ---- time: each end gives up what is undecided by its own clock ------------------------------------------------- */

active proctype clock_of_the_source() {
end:
  do
  :: d_step { !late_s && SOME_TIME -> printf("STEP source late\n"); late_s = true; check() }
#ifndef FAULT_WAITS_FOR_EVER
  :: d_step { late_s && AT(pending) ->
       printf("STEP source gives up\n"); s_state = failed; said_refused_s = true; check() }
#endif
  od
}

active proctype clock_of_the_target() {
end:
  do
  :: d_step { !late_t && SOME_TIME -> printf("STEP target late\n"); late_t = true; check() }
  :: d_step { late_t && t_state == expecting -> printf("STEP target gives up\n"); t_state = failed; check() }
  od
}

/* ---- crashes, and old copies of stores -------------------------------------------------------------------------- */

/* What a start makes of what is in the store. */
inline source_starts() {
#if defined(SUPPLY) && !defined(FAULT_SUPPLY_IN_STORE)
  if
  :: s_state == pending -> s_state = failed; said_refused_s = true
  :: else
  fi;
#else
  skip;
#endif
}

inline may_be_lost() {
  if
  :: T_HOLDS -> lost[PLACE(t_version, t_terms)] = true
  :: else
  fi;
}

active proctype fate() {
end:
  do
#ifdef SUPPLY
  :: d_step { AT(pending) -> printf("STEP source restart\n"); source_starts(); check() }
#endif
  :: d_step { MAY_COPY -> printf("STEP source copy\n"); s_copied = true;
       s_copy = s_state; s_copy_version = s_version; s_copy_terms = s_terms; COPIED check() }
  :: d_step { MAY_COPY -> printf("STEP target copy\n"); t_copied = true;
       t_copy = t_state; t_copy_version = t_version; t_copy_terms = t_terms; COPIED check() }
  :: d_step { s_copied && olds < OLD_MAX -> printf("STEP source restore\n"); olds++; s_old = true;
       s_state = s_copy; s_version = s_copy_version; s_terms = s_copy_terms; source_starts(); check() }
  :: d_step { t_copied && olds < OLD_MAX -> printf("STEP target restore\n"); olds++; t_old = true;
       may_be_lost();
       t_state = t_copy; t_version = t_copy_version; t_terms = t_copy_terms; check() }
  OR_NOTHING
  od
}

#ifdef LIVE
#define K_ENDED (k_state != begun)
ltl ends { <> [] (s_state != pending && t_state != expecting && K_ENDED) }
#endif
