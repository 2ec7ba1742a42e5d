// Runs a check once for each instruction set that this machine has, not only for the best one.
#pragma once

#include <hwy/targets.h>

#include <gtest/gtest.h>

namespace tiercel {

template <class Check>
void for_every_target(const Check& check) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    const testing::ScopedTrace trace(__FILE__, __LINE__, hwy::TargetName(target));
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace tiercel
