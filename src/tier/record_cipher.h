// AES-256-GCM over the tokens and the payload of a record (NIST SP 800-38D), with OpenSSL.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "tiercel/status.h"

namespace tiercel {

class RecordCipher {
 public:
  static constexpr std::size_t kKeyBytes = 32;
  using Nonce = std::array<std::byte, 12>;
  using Tag = std::array<std::byte, 16>;

  // `key` has kKeyBytes.
  explicit RecordCipher(std::string key);

  // Tells keys apart without revealing them; never 0.
  std::uint32_t key_name() const { return key_name_; }
  Result<Nonce> random_nonce() const;

  // Encrypts both parts, as one message, in place. Thread-safe, as is decrypt().
  Result<Tag> encrypt(const Nonce& nonce, std::span<const std::byte> associated, std::span<std::byte> first,
                      std::span<std::byte> second) const;
  // Corruption where anything of it is not what was encrypted with this key.
  Status decrypt(const Nonce& nonce, std::span<const std::byte> associated, std::span<std::byte> first,
                 std::span<std::byte> second, Tag tag) const;
  // The first part alone, unproven: good for choosing what to forget, and for nothing else. False where OpenSSL fails.
  bool decrypt_unproven(const Nonce& nonce, std::span<const std::byte> associated, std::span<std::byte> first) const;

 private:
  const std::string key_;
  std::uint32_t key_name_ = 0;
};

}  // namespace tiercel
