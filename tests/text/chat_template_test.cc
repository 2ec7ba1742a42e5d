#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace tiercel {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kBegin = "<s>";
constexpr std::string_view kEnd = "</s>";

// 6 July 2024, 13:05:09, the moment of the reference data.
std::tm reference_time() {
  std::tm time{};
  time.tm_year = 124;
  time.tm_mon = 6;
  time.tm_mday = 6;
  time.tm_hour = 13;
  time.tm_min = 5;
  time.tm_sec = 9;
  time.tm_wday = 6;
  time.tm_yday = 187;
  return time;
}

ChatTemplate::Options reference_options(bool add_generation_prompt = true) {
  return {.add_generation_prompt = add_generation_prompt,
          .begin_text = kBegin,
          .end_text = kEnd,
          .local_time = reference_time()};
}

Json read_json(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return Json::parse(file);
}

const Json& reference() {
  static const Json data = read_json(TIERCEL_TEST_DATA "/chat_templates.json");
  return data;
}

std::vector<ChatMessage> to_messages(const Json& conversation) {
  std::vector<ChatMessage> messages;
  for (const Json& turn : conversation) messages.push_back({.role = turn.at("role"), .content = turn.at("content")});
  return messages;
}

Result<RenderedChat> render(std::string_view source, const std::vector<ChatMessage>& messages = {},
                            bool add_generation_prompt = true) {
  auto parsed = ChatTemplate::parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->render(messages, reference_options(add_generation_prompt));
}

std::string render_text(std::string_view source, const std::vector<ChatMessage>& messages = {}) {
  const auto chat = render(source, messages);
  return chat.ok() ? chat->text : chat.status().to_string();
}

std::string error_of(std::string_view source, const std::vector<ChatMessage>& messages = {}) {
  const auto chat = render(source, messages);
  EXPECT_FALSE(chat.ok()) << source << " gave " << chat->text.substr(0, 200);
  if (chat.ok()) return "";
  EXPECT_EQ(chat.status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(chat.status().message().find('\n'), std::string::npos);
  return chat.status().message();
}

// True where the result is the one that jinja2 gave.
void expect_same(const Result<RenderedChat>& chat, const Json& expected) {
  if (expected.contains("text")) {
    ASSERT_TRUE(chat.ok()) << chat.status().to_string();
    EXPECT_EQ(chat->text, expected.at("text").get<std::string>());
    EXPECT_EQ(chat->trusted.size(), chat->text.size());
    EXPECT_EQ(chat->trusted.find_first_not_of(std::string("\0\1", 2)), std::string::npos);
    return;
  }
  ASSERT_FALSE(chat.ok()) << chat->text;
  EXPECT_EQ(chat.status().code(), StatusCode::InvalidArgument);
  if (expected.contains("refusal")) {
    EXPECT_EQ(chat.status().message(),
              "the chat template refuses the messages: " + expected.at("refusal").get<std::string>());
  }
}

void check_templates(const Json& data) {
  for (const Json& entry : data.at("templates")) {
    SCOPED_TRACE(entry.at("name").get<std::string>());
    const auto parsed = ChatTemplate::parse(entry.at("template").get<std::string>());
    EXPECT_TRUE(parsed.ok()) << parsed.status().to_string();
    if (!parsed.ok()) continue;
    for (const Json& expected : entry.at("renders")) {
      const auto i = expected.at("conversation").get<std::size_t>();
      const bool prompt = expected.at("add_generation_prompt");
      SCOPED_TRACE("conversation " + std::to_string(i) + (prompt ? " with prompt" : ""));
      expect_same(parsed->render(to_messages(data.at("conversations")[i]), reference_options(prompt)), expected);
    }
  }
}

// $TIERCEL_CHAT_TEMPLATES names more reference data, for published templates: see generate_chat_template_data.py.
TEST(ChatTemplates, RenderAsJinja2Does) {
  check_templates(reference());
  if (const char* path = std::getenv("TIERCEL_CHAT_TEMPLATES")) check_templates(read_json(path));
}

TEST(ChatTemplates, SnippetsRenderAsJinja2Does) {
  const auto messages = to_messages(reference().at("snippet_conversation"));
  for (const Json& snippet : reference().at("snippets")) {
    const std::string source = snippet.at("source");
    SCOPED_TRACE(source);
    expect_same(render(source, messages), snippet);
  }
}

// What a message brought is written in Cyrillic, so that each byte of the result tells where it came from.
TEST(ChatTemplates, TrustExactlyTheirOwnBytes) {
  const std::vector<ChatMessage> messages = {{.role = "user", .content = "  Привет "},
                                             {.role = "assistant", .content = "Ответ"},
                                             {.role = "user", .content = "Конец"}};
  for (const Json& entry : reference().at("templates")) {
    SCOPED_TRACE(entry.at("name").get<std::string>());
    const auto chat = render(entry.at("template").get<std::string>(), messages);
    ASSERT_TRUE(chat.ok()) << chat.status().to_string();
    std::string from_messages;
    for (std::size_t i = 0; i < chat->text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(chat->text[i]);
      const bool is_cyrillic =
          byte == 0xD0 || byte == 0xD1 || (i > 0 && (static_cast<unsigned char>(chat->text[i - 1]) & 0xFE) == 0xD0);
      if (is_cyrillic) {
        EXPECT_EQ(chat->trusted[i], '\0');
      }
      if (chat->trusted[i] == '\0') from_messages += chat->text[i];
    }
    // Nothing but roles, contents and the white space of a content is untrusted.
    for (const std::string_view word : {"user", "assistant", "Привет", "Ответ", "Конец", " ", "model"}) {
      for (std::size_t at = from_messages.find(word); at != std::string::npos; at = from_messages.find(word)) {
        from_messages.erase(at, word.size());
      }
    }
    EXPECT_EQ(from_messages, "");
  }
}

// No expression makes a message's letters trusted.
TEST(ChatTemplateTrust, SurvivesEveryOperation) {
  const std::vector<ChatMessage> messages = {{.role = "r", .content = " xyz\nxyz, "}};
  const char* const expressions[] = {"c",
                                     "c ~ 'a'",
                                     "'a' + c + 'b'",
                                     "c * 3",
                                     "c[1:3]",
                                     "c[::-1]",
                                     "c[2]",
                                     "c | trim",
                                     "c.strip()",
                                     "c.upper()",
                                     "c | title",
                                     "c | capitalize",
                                     "c.split()",
                                     "c.split(',')[0]",
                                     "c.rsplit(',', 1)[0]",
                                     "c.splitlines()[1]",
                                     "c.replace('a', 'b')",
                                     "c | replace('x', c)",
                                     "'abc'.replace('b', c)",
                                     "[c, c] | join(c)",
                                     "c.join(['a', 'b'])",
                                     "c | tojson",
                                     "{'k': [c]} | tojson(indent=2)",
                                     "[c]",
                                     "{c: c}",
                                     "c | indent",
                                     "c | list | join",
                                     "c | first",
                                     "[c] | map('upper') | join",
                                     "[{'a': c}] | map(attribute='a') | first",
                                     "c | default('a')",
                                     "nothing or c",
                                     "c if true",
                                     "namespace(a=c).a",
                                     "c | string",
                                     "c | safe",
                                     "c | reverse",
                                     "[c, 'a'] | sort | first",
                                     "messages | map(attribute='content') | join",
                                     "c.removeprefix(' ')",
                                     "messages",
                                     "{'a': c}.items() | list"};
  for (const std::string expression : expressions) {
    SCOPED_TRACE(expression);
    const auto chat = render("{% set c = messages[0].content %}{{ " + expression + " }}", messages);
    ASSERT_TRUE(chat.ok()) << chat.status().to_string();
    bool is_found = false;
    for (std::size_t i = 0; i < chat->text.size(); ++i) {
      if (std::string_view("xyzXYZ").find(chat->text[i]) == std::string_view::npos) continue;
      is_found = true;
      EXPECT_EQ(chat->trusted[i], '\0') << chat->text << " at " << i;
    }
    EXPECT_TRUE(is_found || chat->text.find_first_not_of(" \n\\,[]") == std::string::npos) << chat->text;
  }
  const auto mixed = render("{% set a %}<{{ messages[0].content | trim }}>{% endset %}{{ a }}", messages);
  ASSERT_TRUE(mixed.ok());
  EXPECT_EQ(mixed->trusted, std::string("\1\0\0\0\0\0\0\0\0\1", 10));
}

TEST(ChatTemplateErrors, NameTheConstructAndItsLine) {
  EXPECT_EQ(error_of("a\n{% include 'x' %}"), "chat template, line 2: the tag 'include' is not supported");
  EXPECT_EQ(error_of("\n\n{{ 1 | wordwrap }}"), "chat template, line 3: the filter 'wordwrap' is not supported");
  EXPECT_EQ(error_of("{{ 1 is odd2 }}"), "chat template, line 1: the test 'odd2' is not supported");
  EXPECT_EQ(error_of("{{ 'a'.zfill(3) }}"), "chat template, line 1: the str method 'zfill' is not supported");
  EXPECT_EQ(error_of("{{ '%s' % 1 }}"), "chat template, line 1: formatting a string with '%' is not supported");
  EXPECT_EQ(error_of("{% for x in y recursive %}{% endfor %}"),
            "chat template, line 1: recursive loops are not supported");
  EXPECT_EQ(error_of("a\n{% if x %}\n"), "chat template, line 2: 'if' is never closed");
  EXPECT_EQ(error_of("{{ x.y }}"), "chat template, line 1: 'x' is undefined");
  EXPECT_EQ(error_of("{{ raise_exception('No\nsystem') }}"), "the chat template refuses the messages: No system");
}

// Each ends quickly, in an error, without much memory.
TEST(ChatTemplateLimits, StopHostileTemplates) {
  const auto repeat = [](std::string_view text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  const std::string hostile[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% for a in range(10) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
      "{{ 'a' * 999999999999 }}",
      "{{ [0] * 999999999 }}",
      "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s=['a' * 16000000]) %}{% for i in range(99999) %}{% set n.s = n.s + ['a' * 16000000] %}{% "
      "endfor %}",
      "{% set n = namespace(s=[]) %}{% for i in range(99999) %}{% set n.s = [n.s] %}{% endfor %}",
      "{% set n = namespace(s=[]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
      "{% set n = namespace(l=[]) %}{% for i in range(999) %}{% for j in [n.l] %}{% set n.l = loop %}{% endfor %}{% "
      "endfor %}",
      "{% set s = 'a' * 16000000 %}{% for i in range(99999) %}{{ 'b' in s }}{% endfor %}",
      // Short: ThreadSanitizer reads the whole rest of a text at every search, which is quadratic in its pieces.
      "{% set s = 'ab' * 5000 %}{{ s.replace('a', s) }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% set s = 'a' * 9000000 %}{{ s }}{{ s }}",
      "{{ 9 ** 9 ** 9 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 99999999999999999999 }}",
      "{{ range(99999999999) }}",
      "{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}",
      "{{ " + repeat("[", 100000),
      "{{ " + repeat("not ", 100000) + "1 }}",
      "{{ " + repeat("-", 100000) + "1 }}",
      "{{ 1" + repeat(" + 1", 100000) + " }}",
      "{{ x" + repeat(".x", 100000) + " }}",
      "{{ x" + repeat("|trim", 100000) + " }}",
      "{{ 1" + repeat(" if 1 else 1", 100000) + " }}",
      repeat("{% if 1 %}", 50000) + repeat("{% endif %}", 50000),
      repeat("{% for a in [1, 2] %}", 100) + "x" + repeat("{% endfor %}", 100),
      repeat("x", 2 << 20),
  };
  for (const std::string& source : hostile) {
    SCOPED_TRACE(source.substr(0, 120));
    error_of(source);
  }
  // A namespace that holds itself is neither a leak nor an endless recursion.
  EXPECT_EQ(render_text("{% set n = namespace() %}{% set n.a = [n] %}{{ n.a == n.a }}"), "True");
}

TEST(ChatTemplateLimits, LeaveRoomForLongConversations) {
  std::vector<ChatMessage> messages;
  for (int i = 0; i < 1000; ++i) {
    messages.push_back({.role = i % 2 == 0 ? "user" : "assistant", .content = std::string(4000, 'x')});
  }
  for (const Json& entry : reference().at("templates")) {
    const auto chat = render(entry.at("template").get<std::string>(), messages);
    ASSERT_TRUE(chat.ok()) << entry.at("name") << ": " << chat.status().to_string();
    EXPECT_GT(chat->text.size(), 4'000'000u);
  }
}

TEST(ChatTemplates, KeepBytesThatAreNotUtf8) {
  const std::vector<ChatMessage> messages = {{.role = "user", .content = "\xFF\xC3 a\x80"}};
  EXPECT_EQ(render_text("{{ messages[0].content | trim }}{{ messages[0].content | length }}", messages),
            "\xFF\xC3 a\x80"
            "5");
}

TEST(ChatTemplates, RenderFromManyThreads) {
  const auto parsed = ChatTemplate::parse(reference().at("templates")[0].at("template").get<std::string>());
  ASSERT_TRUE(parsed.ok());
  const std::vector<ChatMessage> messages = {{.role = "user", .content = "Hello"}};
  const std::string expected = parsed->render(messages, reference_options()).value().text;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 50; ++j) EXPECT_EQ(parsed->render(messages, reference_options()).value().text, expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tiercel
