// Random histories of the KV cache against the plain model, by what they are about. history_runner.h says how to see a
// history again.
#include <string>

#include <gtest/gtest.h>

#include "tests/sim/history_runner.h"

namespace tiercel::sim {
namespace {

class Simulation : public testing::TestWithParam<Configuration> {};
class SimulationOfKeys : public Simulation {};

TEST_P(Simulation, EveryAnswerIsTheModels) { run_histories(GetParam(), 16'000, false); }
TEST_P(SimulationOfKeys, KeysChangeNothing) { run_histories(GetParam(), 8'000, true); }

const Configuration kConfigurations[] = {
    {.name = "Sharing",
     .reaches = {Seen::Hit,
                 Seen::Copy,
                 Seen::Duplicate,
                 Seen::Collision,
                 Seen::Eviction,
                 Seen::Unavailable,
                 Seen::TooLarge,
                 Seen::BadArgument,
                 Seen::Fork,
                 Seen::ForkOfBegunBlock,
                 Seen::ForkRefused,
                 Seen::InFlight,
                 Seen::Arrival,
                 Seen::ExpectedSpared,
                 Seen::ExpectedEvicted,
                 Seen::PinMade,
                 Seen::PinRenewed,
                 Seen::PinOverdue,
                 Seen::PinUnpinned,
                 Seen::PinForgotten,
                 Seen::PinRefused,
                 Seen::ForgottenWhileHeld,
                 Seen::ForgottenBehind,
                 Seen::KeptPrivate,
                 Seen::OutlivedCache}},
    {.name = "Policies",
     .policies = {PolicyKind::Lfu, PolicyKind::Adaptive, PolicyKind::Random, PolicyKind::Liar},
     .reaches = {Seen::Hit, Seen::Copy, Seen::CopyInPlace, Seen::Eviction, Seen::ExpectedSpared, Seen::PolicyLied}},
    {.name = "Lifetimes",
     .lifetimes = true,
     .policies = {PolicyKind::Lru, PolicyKind::Random},
     .reaches = {Seen::HighSpared, Seen::HighEvicted, Seen::LowFirst, Seen::TimeOver, Seen::ExpiredGivenBack}},
    {.name = "Quotas",
     .quotas = true,
     .policies = {PolicyKind::Lru, PolicyKind::Random},
     .reaches = {Seen::Rejected, Seen::QuotaEviction, Seen::TooLarge, Seen::PinRefused}},
    {.name = "Windows",
     .windows = true,
     .policies = {PolicyKind::Lru, PolicyKind::Random},
     .reaches = {Seen::WindowBlockGivenUp, Seen::CompanionEvicted, Seen::HitCutByWindow, Seen::WindowDuplicate}},
    {.name = "Everything",
     .windows = true,
     .quotas = true,
     .lifetimes = true,
     .policies = {PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Adaptive, PolicyKind::Random, PolicyKind::Liar},
     .reaches = {Seen::Hit, Seen::Fork, Seen::QuotaEviction, Seen::ExpiredGivenBack, Seen::CompanionEvicted}},
};
const Configuration kConfigurationsOfKeys[] = {{.name = "AnyKeys",
                                                .quotas = true,
                                                .lifetimes = true,
                                                .policies = {PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Random},
                                                .reaches = {Seen::Hit, Seen::Copy, Seen::Collision}}};

std::string name_of_configuration(const testing::TestParamInfo<Configuration>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Of, Simulation, testing::ValuesIn(kConfigurations), name_of_configuration);
INSTANTIATE_TEST_SUITE_P(With, SimulationOfKeys, testing::ValuesIn(kConfigurationsOfKeys), name_of_configuration);

}  // namespace
}  // namespace tiercel::sim
