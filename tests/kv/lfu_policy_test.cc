// PLACEHOLDER; its owner overwrites this file.
