#!/usr/bin/env python3
"""Writes tokenizer_*.json: what Hugging Face's `tokenizers`, an independent implementation, makes of many texts.

Usage:    python3.11 generate_tokenizer_data.py SmolLM2-135M-Instruct.Q4_1.gguf
Written with: Python 3.11 (Unicode 14.0, no newer than any supported PCRE2), tokenizers 0.23.3, gguf 0.19.0.

  tokenizer_texts.json        the texts; the first "curated" of them are written below, the others drawn at random
  tokenizer_characters.json   Unicode 14's characters: runs [first code point, class], L letter, N number, S white space,
                              O other, ? not assigned, as the pre-tokenizers' own regular expressions see them
  tokenizer_splits.json       for each pre-tokenizer, the lengths in bytes of each text's pieces
  tokenizer_smollm2.json      the real model's ids of each text
  tokenizer_<name>.json       a small vocabulary trained on the texts, and its ids
"""

import json
import pathlib
import random
import sys
import unicodedata

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent
SEED = 20240607

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)])


# As the tokenizer.json of GPT-2, SmolLM2, Llama 3 and Qwen 2 configure them.
PRE_TOKENIZERS = {
    "gpt-2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
}

CURATED = [
    "",
    " ",
    "a",
    "Hello, world!",
    "Hello  world",
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times.",
    "Caching the keys and values of a long prompt saves the whole prefill when the same prefix comes again.",
    "I'm sure they'll say we've won; she'd agree it's what you're after, and he can't, won't, didn't.",
    "I'M SURE THEY'LL SAY WE'VE WON; SHE'D AGREE IT'S WHAT YOU'RE AFTER; HE CAN'T.",
    "'s 't 're 've 'm 'll 'd 'S 'T 'Re 'vE 'M 'lL 'D 'x '' ' 'ſ 'ſt 'K",
    "rock'n'roll o'clock 'tis ’s ’t we’re it’S",
    "def fibonacci(n):\n    a, b = 0, 1\n    while a < n:\n        print(a, end=' ')\n        a, b = b, a + b\n\n\nif __name__ == '__main__':\n    fibonacci(1_000)\n",
    "#include <vector>\n\ntemplate <class T>\nT sum(const std::vector<T>& values) {\n\tT total{};\n\tfor (const auto& value : values) {\n\t\ttotal += value;  // no overflow check\n\t}\n\treturn total;\n}\n",
    "int main(int argc, char** argv) {\r\n\treturn argc > 1 ? 0x1F : 0b1010;\r\n}\r\n",
    "SELECT id, name FROM users WHERE age >= 21 AND name LIKE '%o''clock%' ORDER BY id DESC LIMIT 10;",
    '{"model": "tiny", "temperature": 0.7, "stop": ["\\n\\n", "###"], "n": -1.5e-10, "ok": true, "none": null}',
    "<html>\n  <body class=\"main\">&nbsp;&lt;tag&gt;</body>\n</html>",
    "$ curl -sS 'https://example.org/a/b?c=d&e=%20f#g' | jq '.items[] | .id' > out.txt 2>&1 && echo \"done: $?\"",
    "\\frac{a}{b} + \\sum_{i=1}^{n} x_i^2 = \\alpha \\cdot \\beta",
    "El niño comió piñas en la montaña; ¿cómo está usted? ¡Qué corazón más grande! Años atrás, averigüé.",
    "Die Größe der Straße überraschte die Bürger; Donaudampfschifffahrtsgesellschaftskapitän heißt „Jürgen“.",
    "L'été dernier, j'ai vu où il était : ça coûtait 12,50 € à l'hôtel « Œuvre ».",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Árvíztűrő tükörfúrógép.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак, ґудзик, ў.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· ἐν ἀρχῇ ἦν ὁ λόγος.",
    "İstanbul'da ışık; I i İ ı; ĲSSEL ǅ ǆ ß ẞ ﬁ ﬂ ﬅ ŉ",
    "我们今天去公园散步，天气很好。你好，世界！二〇二四年一月，价格：￥１２３４．５０。",
    "臺灣的繁體中文與「標點符號」……以及《書名》。",
    "今日は天気がいいですね。カタカナとひらがな、漢字、ﾊﾝｶｸ、ー長音。「引用」です！",
    "안녕하세요 세계! 오늘은 날씨가 좋습니다. 한국어 토큰화 시험 12345.",
    "مرحبا بالعالم! كيف حالك اليوم؟ الأرقام ١٢٣٤٥٦٧٨٩٠ و ۱۲۳. اللُّغَةُ العَرَبِيَّةُ",
    "שלום עולם, מה שלומך? בְּרֵאשִׁית בָּרָא",
    "नमस्ते दुनिया! यह हिन्दी का परीक्षण है। संख्या १२३४५ और क्षत्रिय, ज्ञान, श्री।",
    "สวัสดีชาวโลก ภาษาไทยไม่มีการเว้นวรรค ๑๒๓",
    "Chào thế giới, tiếng Việt có dấu: ệ ế ữ ợ ẫ ỗ; xin cảm ơn.",
    "ሰላም ልዑል ᎣᏏᏲ ᠮᠣᠩᠭᠣᠯ བོད་ཡིག မြန်မာ ខ្មែរ ქართული Հայերեն",
    "😀 😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇪🇸 ❤️ 1️⃣ ☃ 🧑🏿‍🚀 done😀now",
    "a\u00a0b\u00a0\u00a0c \u00a0 d\u3000e\u3000\u3000f\u2003g\u2009h\u202fi\u205fj",
    "line\u2028separator\u2029paragraph\u0085next\u000bvertical\u000cform",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u2060word\u180emongolian\u00adsoft",
    "\ufeffstarts with a byte order mark",
    "\u1680ogham\u1680\u1680 spaces \u2000\u2001\u2002\u2004\u2005\u2006\u2007\u2008\u200a end",
    " leading", "  leading", "   leading", "trailing ", "trailing  ", "trailing   ", "\tleading", "trailing\t", "\t\t\tx",
    "\n", "\n\n", "\r\n", "\r\n\r\n", "\r\r", " \n", "\n ", " \n ", "  \n\n  ", "\t\n\t", "a\n", "a\n\n\nb", "a \n b", "a\r\n\r\nb", "a  \r\n  b",
    "!\n", "!!\r\n\r\nx", "...\n\n...", " !\n !", ")\n\n(", "a.\n \n.b", "=====\n", "-- \n--",
    "a    b", "a     b", "x" + " " * 17 + "y", " " * 63, " " * 64, " " * 65 + "z", "\t" * 20, "\n" * 30, " \t \t \n \t ",
    "1", "12", "123", "1234", "12345", "123456", "1234567", "12345678", "123456789", "1234567890", "12345678901234567890123456789",
    " 1", "  1", "   12", " 123 4567", "a1", "1a", "a1b22c333d4444", "3.14159", "1,234,567.89", "-42", "+7", "1e10", "2024-06-07T12:34:56.789Z",
    "½ ⅓ ² ³ ¹⁰ ₁₂ Ⅳ Ⅻ ① ⑳ 〇 一二三 ㊀ ௧௨௩ 𝟘𝟙𝟚 𝟭𝟮𝟯 ⅷ 𐄇 ༣ 𖭑",
    "Tel. +49 (0)30 1234-5678, 10:45, 50%, 1/2, 3×4, #42, №5, v1.2.3-rc.4+build5",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc",
    "pneumonoultramicroscopicsilicovolcanoconiosis internationalization antidisestablishmentarianism",
    " internationalization internationalization", "internationalizations", "theinternationalizationof",
    "Lopado" + "temachoselachogaleokranioleipsano" * 4,
    "http" * 40, "=" * 100, "-" * 77, "." * 50, "!?" * 30, "ha" * 60, "0" * 50, "\\" * 9, "\"" * 5, "'" * 5, "_" * 33, "__init__ __a",
    "e\u0301 n\u0303 o\u0308 a\u030a\u0301 \u0301 \u0301x x\u0301\u0302\u0303\u0304\u0305 Z\u0351\u036b\u0343 क\u093c",
    "\u0000", "a\u0000b", "\u0001\u0002\u0003\u0007\u0008\u001b[31mred\u001b[0m\u007f", "x\u0080\u0084\u0086\u009fy",
    "\u0004", "!\u0004!", "a\u0006\u0013\u0014b", " \u0016 \u001d.", "=\u0004=\u0004=",
    "\u0378\u0379 \ufffe\uffff \ufffd \U0010ffff \U0001fffe \ue000\uf8ff \U000f0000",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒻𝓊𝓃 ｆｕｌｌｗｉｄｔｈ ⓒⓘⓡⓒⓛⓔ 𐍈𐌰 𒀀𒁀 𓀀 🀄 𠜎𠜱𠝹",
    "→ ← ⇒ ∀x∈ℝ: x² ≥ 0 ∧ √2 ≠ 1.41 … – — ‘a’ “b” «c» † ‡ • ™ © ® ° § ¶ µ ª º",
    "camelCase snake_case kebab-case SCREAMING_CASE PascalCase mixedCASEword iPhone15Pro x86_64 utf8 C++20 F#",
    "user@example.org, @handle #hashtag $HOME %PATH% ~/file.txt /usr/bin/env C:\\Windows\\System32 ./a/../b",
    "<|im_star t|> <| im_start|> <|im_end |> [INST] <<SYS>> </s <s >",
    "What is 2+2? \n\nA) 3\nB) 4\nC) 5\n\nAnswer: B",
    "User: hi\nAssistant: Hello! How can I help you today?\nUser: ",
    "- item one\n- item two\n  - nested\n    - deeper\n\n1. first\n2. second\n\n> quote\n\n```python\nprint('x')\n```\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "ALL CAPS TEXT WITH NUMBERS 100 AND SYMBOLS &*()!",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who had not caught anything for "
    "eighty-four days. Every morning he rowed out before the sun came up, and every evening he came back with an empty "
    "boat; the children on the pier had stopped asking. \"Tomorrow,\" he would tell them, \"tomorrow is another day.\"",
    "The model reads its weights from a file that is mapped into memory. Each layer has a query, key and value "
    "projection; attention compares the query with the keys of all earlier tokens and mixes their values. Because keys "
    "and values never change once computed, they are kept, and the cache grows by one entry for each token and layer.",
]

# Random texts are strings of these, so that borders of every kind meet.
FRAGMENTS = [
    " ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\u200b", "\u180e", "\u0085", "\ufeff",
    "'s", "'t", "'RE", "'ve", "'", "''", "1", "22", "333", "4444", "٣", "½", "²", "१२", "the", "The", " and", "of", "ing", "Hello", "x",
    "über", "ñ", "naïve", "день", "λ", "你好", "世界", "日本", "カ", "한국", "مرحبا", "नमस्ते", "ไทย", "e\u0301", "\u0301", "😀", "👍🏽", "👩‍👧", "🇪🇸",
    ".", ",", "!", "?!", "...", "-", "--", "_", "=", "==", "(", ")", "{", "}", "[", "]", "<", ">", "</", "<|", "|>", "/", "//", "\\", "\"",
    "#", "$", "%", "&", "*", "+", "~", "^", "@", "|", ";", ":", "\u0000", "\u0001", "\u007f", "€", "→", "\u00ad", "ſ", "K", "if", "for", "int",
]


def random_texts(generator, count):
    assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = []
    for i in range(count):
        parts = []
        for _ in range(generator.randint(1, 24)):
            draw = generator.random()
            if draw < 0.85:
                parts.append(generator.choice(FRAGMENTS))
            elif draw < 0.93:
                parts.append(chr(generator.choice(assigned)))
            else:
                parts.append("".join(generator.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(generator.randint(1, 9))))
        texts.append("".join(parts))
    return texts


def piece_lengths(pre_tokenizer, text):
    # Byte-level pieces have one character for each byte.
    return [len(piece) for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


def character_runs():
    gpt2 = PRE_TOKENIZERS["gpt-2"]
    runs = []
    for code_point in range(0x110000):
        character = chr(code_point)
        if unicodedata.category(character) in ("Cn", "Cs", "Co"):
            kind = "?"
        else:
            joins = [len(gpt2.pre_tokenize_str(before + character)) == 1 for before in "a1!"]
            kind = "LNO"[joins.index(True)] if any(joins) else "S"
        if not runs or runs[-1][1] != kind:
            runs.append([code_point, kind])
    return runs


def without_specials(tokenizer):
    tokenizer.encode_special_tokens = True
    return tokenizer


def real_model(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["smollm"]
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer


CONTROL = ["<|begin|>", "<|im_end|>", "<|im_end|>!", "<|a|>"]
USER_DEFINED = ["<tool>", "<tool>s", "naïve", "    "]
# Not reachable by merging: only a model that takes whole pieces may use them.
WHOLE = ["Ġinternationalization", "internationalization", "ĠĠĠ", "123"]
SPECIAL_TEXTS = [
    "<|begin|>", "<|begin|>Hello<|im_end|>", "<|im_end|>!<|im_end|>", "a<|a|><|a|>b", "<|a|>  x", "x  <|a|>", "12<|a|>34", "<|a|<|a|>",
    "<tool>", "use <tool>s and <tool> now", "naïve naïves", "x    y", "     z", "<|im_end|>\n<tool>\n<|begin|>", "<<|a|>>", "it<|a|>'s",
]


def trained_model(name, corpus, vocabulary_size):
    whole_pieces = name == "llama-bpe"
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = PRE_TOKENIZERS[name]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
    )
    learner.train_from_iterator(corpus, trainer)
    learnt = json.loads(learner.to_str())["model"]
    vocabulary = dict(learnt["vocab"])
    for token in WHOLE:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_pieces))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in USER_DEFINED])
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.get)
    types = [3 if token in CONTROL else 4 if token in USER_DEFINED else 1 for token in tokens]
    return tokenizer, tokens, types, [" ".join(merge) for merge in merges]


def write(name, content):
    path = OUT / name
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(path.name, path.stat().st_size, "bytes")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"this Python knows Unicode {unicodedata.unidata_version}; use Python 3.11, which knows 14.0.0")
    texts = CURATED + random_texts(random.Random(SEED), 600)
    versions = {"tokenizers": tokenizers.__version__, "unicode": unicodedata.unidata_version}
    write("tokenizer_texts.json", {"curated": len(CURATED), "texts": texts})
    write("tokenizer_characters.json", {**versions, "runs": character_runs()})
    write(
        "tokenizer_splits.json",
        {name: [piece_lengths(pre, text) for text in texts] for name, pre in PRE_TOKENIZERS.items()} | {"versions": versions},
    )
    smollm2 = without_specials(real_model(sys.argv[1]))
    write("tokenizer_smollm2.json", {**versions, "ids": [smollm2.encode(text).ids for text in texts]})
    small = texts[: len(CURATED) + 200]
    for name in PRE_TOKENIZERS:
        tokenizer, tokens, types, merges = trained_model(name, CURATED, 900)
        with_special = [tokenizer.encode(text).ids for text in SPECIAL_TEXTS]
        plain = without_specials(tokenizer)
        write(
            f"tokenizer_{name}.json",
            {
                **versions,
                "pre_tokenizer": name,
                "tokens": tokens,
                "types": types,
                "merges": merges,
                "ids": [plain.encode(text).ids for text in small],
                "special": [
                    {"text": text, "plain": plain.encode(text).ids, "special": special}
                    for text, special in zip(SPECIAL_TEXTS, with_special)
                ],
            },
        )


if __name__ == "__main__":
    main()
