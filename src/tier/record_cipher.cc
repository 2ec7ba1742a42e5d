#include "tier/record_cipher.h"

#include <cassert>
#include <cstring>
#include <memory>
#include <string_view>

#include <openssl/evp.h>
#include <openssl/rand.h>

namespace tiercel {
namespace {

using Context = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

const unsigned char* as_unsigned(const void* bytes) { return static_cast<const unsigned char*>(bytes); }

// Sets the key and nonce and adds the associated data; null where OpenSSL fails.
Context begin(bool encrypt, const std::string& key, const RecordCipher::Nonce& nonce,
              std::span<const std::byte> associated) {
  Context context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  int ignored = 0;
  const bool begun = context &&
                     EVP_CipherInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, as_unsigned(key.data()),
                                       as_unsigned(nonce.data()), encrypt ? 1 : 0) == 1 &&
                     EVP_CipherUpdate(context.get(), nullptr, &ignored, as_unsigned(associated.data()),
                                      static_cast<int>(associated.size())) == 1;
  if (!begun) context.reset();
  return context;
}

bool update(EVP_CIPHER_CTX* context, std::span<std::byte> bytes) {
  auto* data = reinterpret_cast<unsigned char*>(bytes.data());
  int done = 0;
  return bytes.empty() || EVP_CipherUpdate(context, data, &done, data, static_cast<int>(bytes.size())) == 1;
}

}  // namespace

RecordCipher::RecordCipher(std::string key) : key_(std::move(key)) {
  assert(key_.size() == kKeyBytes);
  const std::string named = "tiercel disk tier" + key_;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  EVP_Digest(named.data(), named.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  std::memcpy(&key_name_, digest.data(), sizeof key_name_);
  if (key_name_ == 0) key_name_ = 1;
}

Result<RecordCipher::Nonce> RecordCipher::random_nonce() const {
  Nonce nonce;
  if (RAND_bytes(reinterpret_cast<unsigned char*>(nonce.data()), nonce.size()) != 1) {
    return Status::unavailable("the system gives no random numbers to encrypt with");
  }
  return nonce;
}

Result<RecordCipher::Tag> RecordCipher::encrypt(const Nonce& nonce, std::span<const std::byte> associated,
                                                std::span<std::byte> first, std::span<std::byte> second) const {
  const Context context = begin(true, key_, nonce, associated);
  Tag tag;
  int ignored = 0;
  unsigned char nothing[16];
  const bool done = context && update(context.get(), first) && update(context.get(), second) &&
                    EVP_CipherFinal_ex(context.get(), nothing, &ignored) == 1 &&
                    EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, tag.size(), tag.data()) == 1;
  if (!done) return Status::internal("OpenSSL could not encrypt a KV block");
  return tag;
}

Status RecordCipher::decrypt(const Nonce& nonce, std::span<const std::byte> associated, std::span<std::byte> first,
                             std::span<std::byte> second, Tag tag) const {
  const Context context = begin(false, key_, nonce, associated);
  int ignored = 0;
  unsigned char nothing[16];
  const bool whole = context && update(context.get(), first) && update(context.get(), second) &&
                     EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, tag.size(), tag.data()) == 1 &&
                     EVP_CipherFinal_ex(context.get(), nothing, &ignored) == 1;
  return whole ? Status() : Status(StatusCode::Corruption, {});
}

bool RecordCipher::decrypt_unproven(const Nonce& nonce, std::span<const std::byte> associated,
                                    std::span<std::byte> first) const {
  const Context context = begin(false, key_, nonce, associated);
  return context && update(context.get(), first);
}

}  // namespace tiercel
