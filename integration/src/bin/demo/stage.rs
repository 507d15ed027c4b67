//! What the audience sees: acts, commands with their output, claims.

use std::time::Instant;

use anyhow::{Context as _, Result};
use integration::cli::{Said, Upgradectl};

/// Prints and counts.
#[derive(Debug)]
pub struct Stage {
    product: Upgradectl,
    begun: Instant,
    acts: u32,
    claims: u32,
}

impl Stage {
    /// An empty stage.
    pub fn new(product: Upgradectl) -> Stage {
        Stage { product, begun: Instant::now(), acts: 0, claims: 0 }
    }

    /// Opens an act: its title, and what to look at.
    pub fn act(&mut self, title: &str, look: &str) {
        self.acts += 1;
        let seconds = self.begun.elapsed().as_secs();
        println!("\n{}. {title}  [{}:{:02}]", self.acts, seconds / 60, seconds % 60);
        for line in look.lines() {
            println!("   {}", line.trim());
        }
        println!();
    }

    /// Types a command, shows what it says, and asserts its exit code.
    pub fn type_(&mut self, line: &str, code: i32) -> Result<Said> {
        println!("$ upgradectl {line}");
        let said = self.product.show(line.split(' '))?.expect(code)?;
        println!("[exit {}, {:.1} s]", said.code, said.took.as_secs_f64());
        self.claims += 1;
        Ok(said)
    }

    /// Shows lines that are added to the inventory.
    pub fn writes(&self, tables: &str) {
        println!("added to the inventory:");
        for line in tables.lines() {
            println!("  | {line}");
        }
        println!();
    }

    /// Makes a claim and asserts it.
    pub fn claim(&mut self, claim: &str, holds: impl FnOnce() -> Result<()>) -> Result<()> {
        holds().with_context(|| format!("it does not hold that {claim}"))?;
        println!("ok  {claim}");
        self.claims += 1;
        Ok(())
    }

    /// The last line.
    pub fn end(&self) {
        let seconds = self.begun.elapsed().as_secs();
        println!(
            "\n{} claims asserted in {} acts, {}:{:02} minutes.",
            self.claims,
            self.acts,
            seconds / 60,
            seconds % 60
        );
    }
}
