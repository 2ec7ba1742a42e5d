// PLACEHOLDER so that the tree builds; its owner overwrites this file.
#include "tiercel/eviction_policy.h"
namespace tiercel {
EvictionPolicyFactory adaptive() { return lru(); }
}  // namespace tiercel
