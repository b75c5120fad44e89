"""Token ids that mean the same in every vocabulary and network."""

PAD = 0  # padding: never predicted, never attended to
END = 1  # begins and ends every text, like GPT-2's <|endoftext|>
