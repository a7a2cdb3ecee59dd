"""Coverage-guided fuzzing: ``just fuzz``; ``test_fuzz.py`` tries the kept inputs again, without a fuzzer."""
