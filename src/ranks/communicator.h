// What ranks say to each other: processes (or threads, or devices) that hold a part of one model each and compute every
// step together. Two implementations move host memory over TCP (tcp_communicator.h, gloo_communicator.h), one that of
// GPUs by NCCL (device/nccl_communicator.h).
//
// Every rank calls the same collective operations in the same order with the same sizes; a send meets a receive of the
// same size. Where sizes or operations differ, all fail, at the deadline at the latest.
//
// Memory is of the kind that the communicator was opened for. It stays the caller's, and must live and be left alone
// until the operation is through:
//   host memory     when the call returns. wait() has nothing to do.
//   device memory   the operation is ordered in the communicator's stream, behind what is in it already, and the call
//                   may return before. What comes later in that stream may use the result; the host may after wait().
//
// Deadlines: an operation that is not through within CommunicatorOptions::timeout_ms has failed. With the calls that
// return early that is seen by a later call or wait(), or by a watcher of the implementation's own that needs no call.
//
// Failure is final. After the first failed operation (a rank that died, hung or left; abort(); a deadline) every later
// call fails at once with the same Status, and the connections to the other ranks are closed, so that they fail too:
// all ranks are out of their operations within timeout_ms of the first, and nobody waits for anybody after that. What
// a buffer holds after a failed operation is undefined. To go on, destroy the communicator and open another.
//   DeadlineExceeded   a rank did not come in time
//   Unavailable        a rank is gone
//   Cancelled          abort() of this rank
//   Internal           another rank is in another operation, or in one of another size
//   InvalidArgument    a rank or root out of range (not final: nothing was done)
//
// Threads: one thread at a time calls the operations, not always the same one. abort() may be called by any thread at
// any time and ends an operation that is under way. Destroying it with operations of other ranks under way fails these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tiercel/status.h"

namespace tiercel {

// What is added up.
enum class Element : std::uint8_t { F32, BF16, I32 };

constexpr std::size_t element_bytes(Element element) { return element == Element::BF16 ? 2 : 4; }

struct CommunicatorOptions {
  // Of rank 0, "host:port", where the ranks find each other: rank 0 listens there, the others connect. IPv6 in
  // brackets: "[::1]:29500".
  std::string address = {};
  std::uint32_t rank = 0;
  std::uint32_t size = 1;
  // Longest time of one operation. At least 1.
  std::uint64_t timeout_ms = 30'000;
  // How long opening waits for all ranks to be there. At least 1.
  std::uint64_t open_timeout_ms = 300'000;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual std::uint32_t rank() const = 0;
  virtual std::uint32_t size() const = 0;

  // Replaces `count` elements by their sums over all ranks; the same bits on every rank. In host memory an element is
  // added up in the order of the ranks, so that its bits do not depend on what is summed beside it: a token's bits are
  // the same in every batch. (Rings, as NCCL and Gloo's own have them, begin elsewhere for each piece.)
  virtual Status all_reduce_sum(void* values, std::size_t count, Element element) = 0;
  // Each rank gives `bytes`, all get size() * bytes in the order of ranks. `all` may hold `mine` in its place.
  virtual Status all_gather(const void* mine, std::size_t bytes, void* all) = 0;
  // Everybody's `data` becomes that of `root`.
  virtual Status broadcast(void* data, std::size_t bytes, std::uint32_t root) = 0;
  // To and from one other rank; between two ranks in the order of the calls.
  virtual Status send(const void* data, std::size_t bytes, std::uint32_t to) = 0;
  virtual Status receive(void* data, std::size_t bytes, std::uint32_t from) = 0;
  // Nobody comes out before everybody came in.
  virtual Status barrier() = 0;

  // A view on these ranks alone, in ascending order and with this one among them, numbered anew from 0: operations of
  // it are among them. All ranks call it, as an operation, and all members of a group name the same ranks. A rank's
  // operations, the view's and this communicator's, are in the order of its calls; deadline and failure are the same,
  // whole and view. This one must outlive it. (In host memory nothing is said for it.)
  //   InvalidArgument    ranks that are none of these, not ascending, or without this one (not final)
  virtual Result<std::unique_ptr<Communicator>> group(const std::vector<std::uint32_t>& ranks) = 0;

  // From the next operation on, instead of CommunicatorOptions::timeout_ms; on all ranks alike.
  virtual void set_timeout_ms(std::uint64_t timeout_ms) = 0;
  // Until all operations called so far are through; Ok, or the Status of the first that failed.
  virtual Status wait() = 0;
  // Ends this rank's operations, now and later, with Cancelled, and with that those of the other ranks with
  // Unavailable.
  virtual void abort() = 0;
};

// Whether Communicator::group() of that rank may be of these.
Status check_group(const std::vector<std::uint32_t>& ranks, std::uint32_t rank, std::uint32_t size);

}  // namespace tiercel
