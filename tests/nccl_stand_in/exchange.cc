#include "tests/nccl_stand_in/exchange.h"

#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace nccl_stand_in {
namespace {

float add(float a, float b) { return a + b; }
double add(double a, double b) { return a + b; }
__half add(__half a, __half b) { return __float2half(__half2float(a) + __half2float(b)); }
__nv_bfloat16 add(__nv_bfloat16 a, __nv_bfloat16 b) {
  return __float2bfloat16(__bfloat162float(a) + __bfloat162float(b));
}
template <class Integer>
Integer add(Integer a, Integer b) {
  return static_cast<Integer>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}

template <class T>
void sum(const Meeting& meeting) {
  const std::size_t count = meeting.sides.front().call.count, ranks = meeting.sides.size();
  std::vector<T> sums(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t first = i * ranks / count;
    const auto value = [&](std::size_t rank) {
      return static_cast<const T*>(meeting.sides[rank % ranks].call.from)[i];
    };
    sums[i] = value(first);
    for (std::size_t rank = first + 1; rank < first + ranks; ++rank) sums[i] = add(sums[i], value(rank));
  }
  for (const Meeting::Side& side : meeting.sides) std::memcpy(side.call.to, sums.data(), count * sizeof(T));
}

void sum_of_type(const Meeting& meeting) {
  switch (meeting.sides.front().call.type) {
    case ncclInt8: return sum<std::int8_t>(meeting);
    case ncclUint8: return sum<std::uint8_t>(meeting);
    case ncclInt32: return sum<std::int32_t>(meeting);
    case ncclUint32: return sum<std::uint32_t>(meeting);
    case ncclInt64: return sum<std::int64_t>(meeting);
    case ncclUint64: return sum<std::uint64_t>(meeting);
    case ncclFloat16: return sum<__half>(meeting);
    case ncclFloat32: return sum<float>(meeting);
    case ncclFloat64: return sum<double>(meeting);
    case ncclBfloat16: return sum<__nv_bfloat16>(meeting);
    default: return;  // check_call() lets none through
  }
}

// A rank's own part may lie in its place already.
void move(void* to, const void* from, std::size_t bytes) {
  if (to != from) std::memcpy(to, from, bytes);
}

}  // namespace

void exchange(const Meeting& meeting) {
  const Call& first = meeting.sides.front().call;
  const std::size_t bytes = first.count * bytes_of(first.type);
  if (bytes == 0) return;
  switch (first.kind) {
    case Kind::AllReduce: return sum_of_type(meeting);
    case Kind::AllGather:
      for (const Meeting::Side& side : meeting.sides) {
        auto* to = static_cast<std::byte*>(side.call.to);
        for (const Meeting::Side& other : meeting.sides) {
          move(to, other.call.from, bytes);
          to += bytes;
        }
      }
      return;
    case Kind::Broadcast: {
      const void* from = meeting.sides[static_cast<std::size_t>(first.other)].call.from;
      for (const Meeting::Side& side : meeting.sides) move(side.call.to, from, bytes);
      return;
    }
    case Kind::Send:
    case Kind::Receive: return move(meeting.sides[1].call.to, meeting.sides[0].call.from, bytes);
  }
}

}  // namespace nccl_stand_in
