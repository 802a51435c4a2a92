from transformer2.cli import main

main()
