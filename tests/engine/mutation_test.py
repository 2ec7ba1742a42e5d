"""Plants bugs in the serving loop and demands that its tests see every one: the means of tests/kv/mutation_test.py."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.kv.mutation_test import main  # noqa: E402

CASES, HISTORIES = "engine_test", "serving_sim_test"
DRAFTER = "engine/drafter.cc"
SCHEDULER, LOOP, COMPUTE = "engine/scheduler.cc", "engine/step_loop.cc", "engine/step_loop_compute.cc"

# (what it is, file, text, replacement, programs that must see it)
MUTANTS = [
    ("ageing is ignored", SCHEDULER, "sequence->request.priority * limits_.aging_s;",
     "sequence->request.priority * 1e9;", CASES),
    ("the queue is in no order", SCHEDULER,
     "const auto place = std::ranges::upper_bound(waiting_, sequence->rank_s, {}, rank_of);",
     "const auto place = waiting_.end();", HISTORIES),
    ("a preempted sequence is not where it stood", SCHEDULER,
     "waiting_.insert(std::ranges::lower_bound(waiting_, preempted->rank_s, {}, rank_of), std::move(preempted));",
     "waiting_.push_back(std::move(preempted));", HISTORIES),
    ("a preempted sequence is lost", SCHEDULER,
     "waiting_.insert(std::ranges::lower_bound(waiting_, preempted->rank_s, {}, rank_of), std::move(preempted));",
     "if (preempted->group) waiting_.push_front(std::move(preempted));", HISTORIES),
    ("one more sequence than the limit", SCHEDULER, "prompt_budget_ > 0 && has_room();",
     "prompt_budget_ > 0 && running_.size() <= limits_.max_sequences;", HISTORIES),
    ("the place of nobody is taken", SCHEDULER, "if (code == StatusCode::Ok && full) preempt(*giving_way_.front());",
     "", HISTORIES),
    ("a step of too many tokens", SCHEDULER,
     "limits_.max_tokens - std::min(limits_.max_tokens, step_.streams);", "limits_.max_tokens;", HISTORIES),
    ("prompts take more than the budget", "engine/step_budget.cc", "if (streams == 0 || most == 0) return most;",
     "if (streams == 0 || most == 0) return most + 1;", HISTORIES),
    ("more rows of logits than there are", SCHEDULER,
     "room = std::min(room, most_rows - std::min(logit_rows_, most_rows));", "room = std::min(room, most_rows);",
     HISTORIES),
    ("the highest priority gives way", SCHEDULER, "a->request.priority < b->request.priority\n",
     "a->request.priority > b->request.priority\n", HISTORIES),
    ("equals give way", SCHEDULER, "running->request.priority < waiting.request.priority &&",
     "running->request.priority <= waiting.request.priority &&", HISTORIES),
    ("arrivals pass those of their tenant that are held", SCHEDULER,
     "return other->held_by_quota && other->request.cache_salt", "return false && other->request.cache_salt", CASES),
    ("a quota holds for ever", SCHEDULER,
     "for (const auto& sequence : waiting_) sequence->held_by_quota = false;", "", HISTORIES),
    ("others pass without bound", SCHEDULER, "if (first.given_room || first.overtaken >= kMostOvertaken) return place;", "", CASES),
    ("other priorities pass by prefix", SCHEDULER,
     "if ((*other)->request.priority != first.request.priority) break;", "", HISTORIES),
    ("deadlines are ignored", LOOP, " || now >= s.deadline;", ";", HISTORIES),
    ("deadlines end no one who waits", LOOP, " || now >= s.deadline;", " || (s.was_admitted() && now >= s.deadline);", CASES),
    ("the queue has no bound", LOOP, "queued_ + choices.size() > options_.max_queued_requests) {",
     "queued_ + choices.size() > 100 * options_.max_queued_requests) {", HISTORIES),
    ("a failed step loses its sequences", LOOP,
     "for (auto& sequence : scheduler_.take_running()) end(std::move(sequence), status);",
     "static_cast<void>(status), scheduler_.take_running();", HISTORIES),
    ("a refused request has no answer", COMPUTE,
     "for (auto& [sequence, status] : step.refused) end(std::move(sequence), std::move(status));", "", HISTORIES),
    ("a fork has no room", COMPUTE, "first.lease.fork(choice->most_tokens)",
     "first.lease.fork(first.tokens.size() + 1)", HISTORIES),
    ("one drafted token too many is accepted", COMPUTE,
     "while (accepted < drafted.size() && !has_finished(sequence) && sequence.tokens.back() == drafted[accepted]) {",
     "while (accepted < drafted.size() && !has_finished(sequence) &&\n"
     "         (accepted == 0 || sequence.tokens[sequence.tokens.size() - 2] == drafted[accepted - 1])) {", CASES),
    ("what was drafted is committed before it is accepted", COMPUTE, "  std::size_t accepted = 0;\n",
     "  std::size_t accepted = 0;\n  sequence.lease.commit(drafted, part.share, false);\n", CASES),
    ("random numbers are drawn for drafts that are rejected", COMPUTE, "  account(sequence);\n  sequence.response.drafted",
     "  if (accepted < drafted.size()) sequence.sampler->sample(logits.last(vocabulary));\n"
     "  account(sequence);\n  sequence.response.drafted", CASES),
    ("a sequence that has ended goes on with its draft", COMPUTE, "!has_finished(sequence) && ", "", CASES),
    ("drafts reach beyond the end", DRAFTER, "sequence.tokens.size() + 1);", "sequence.tokens.size());", HISTORIES),
    ("drafts take the rows of others", DRAFTER, "limits_.max_logit_rows - limits_.max_sequences,",
     "limits_.max_logit_rows,", HISTORIES),
    ("the KV of accepted drafts counts as not computed", COMPUTE, "    ++sequence.computed;\n", "", CASES),
    ("who was given room waits for a tier", SCHEDULER, "if (sequence.given_room || sequence.expected",
     "if (sequence.expected", CASES),
    ("tokens are accounted twice", SCHEDULER, "  preempted->computed = 0;\n",
     "  preempted->computed = preempted->accounted = 0;\n", HISTORIES),
    ("who ends while it waits keeps its place in the queue", LOOP, "    --queued_;\n  }\n  // Blocks first",
     "  }\n  // Blocks first", HISTORIES),
    ("who starts keeps its place in the queue", COMPUTE, "  --queued_;\n  rejected_since_", "  rejected_since_",
     HISTORIES),
    ("what others hold too is given back", "kv_cache_demotion.cc", "is_first && holders == references",
     "is_first && holders > 0", CASES),
    ("some give way in vain", SCHEDULER, "if (suffices(giving_way_.size(), giving_way_[i]))", "if (i > enough)", CASES),
    ("a demotion never ends", "kv_cache_demotion.cc", "return all || demotion.write.path.expired() ||",
     "return all; demotion.write.path.expired() ||", HISTORIES),
    ("a demotion promises for ever", "kv_cache_demotion.cc", "  pool_.return_promises(promised);\n", "", HISTORIES),
]

if __name__ == "__main__":
    sys.exit(main(MUTANTS))
