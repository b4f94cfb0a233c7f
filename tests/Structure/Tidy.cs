using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace Native.Tests.Structure;

/// <summary>What is too long in the repository's sources.</summary>
internal static class Tidy
{
    /// <summary>Columns a line may have.</summary>
    public const int MaxColumns = 120;

    /// <summary>Lines a method may have, from its signature to its closing brace.</summary>
    public const int MaxLines = 70;

    private static readonly string[] NotOurs = ["bin", "obj", "node_modules", ".git"];

    /// <summary>All of the repository's files of this name or ending, as paths with slashes from its root.</summary>
    public static IEnumerable<string> Files(string repository, string pattern)
    {
        return Below("").Order(StringComparer.Ordinal);

        IEnumerable<string> Below(string folder)
        {
            string path = Path.Combine(repository, folder);
            foreach (string file in Directory.EnumerateFiles(path, pattern))
                yield return folder + Path.GetFileName(file);
            foreach (string child in Directory.EnumerateDirectories(path).Select(p => Path.GetFileName(p)!))
            {
                if (NotOurs.Contains(child)) continue;
                foreach (string file in Below(folder + child + "/")) yield return file;
            }
        }
    }

    /// <summary>What is too long in one file: its name, and how many lines of it are; or a method's, and its
    /// lines.</summary>
    /// <exception cref="InvalidDataException">The source is no C#.</exception>
    public static IEnumerable<(string Name, int Count)> Findings(string file, string source)
    {
        int wide = source.Split('\n').Count(line => line.TrimEnd('\r').Length > MaxColumns);
        if (wide > 0) yield return (file, wide);

        SyntaxTree tree = CSharpSyntaxTree.ParseText(source, new CSharpParseOptions(LanguageVersion.Preview));
        if (tree.GetDiagnostics().FirstOrDefault(found => found.Severity == DiagnosticSeverity.Error) is { } error)
            throw new InvalidDataException($"{file}: {error}");
        Dictionary<string, int> seen = [];
        foreach ((string method, int lines) in Methods((CompilationUnitSyntax)tree.GetRoot()))
        {
            if (lines <= MaxLines) continue;
            int number = seen[method] = seen.GetValueOrDefault(method) + 1;
            yield return ($"{file} {method}{(number > 1 ? $"#{number}" : "")}", lines);
        }
    }

    /// <summary>Every body of code with its lines: methods, constructors, accessors, local functions, a program's
    /// statements.</summary>
    public static IEnumerable<(string Name, int Lines)> Methods(CompilationUnitSyntax root)
    {
        GlobalStatementSyntax[] program = [.. root.Members.OfType<GlobalStatementSyntax>()];
        if (program.Length > 0) yield return ("Program", Line(program[^1].Span.End) - Line(program[0].SpanStart) + 1);
        foreach (SyntaxNode node in root.DescendantNodes())
        {
            string? name = node switch
            {
                MethodDeclarationSyntax method => method.Identifier.Text,
                ConstructorDeclarationSyntax constructor => constructor.Identifier.Text,
                DestructorDeclarationSyntax destructor => "~" + destructor.Identifier.Text,
                OperatorDeclarationSyntax @operator => "operator" + @operator.OperatorToken.Text,
                ConversionOperatorDeclarationSyntax conversion => "operator" + conversion.Type,
                LocalFunctionStatementSyntax local => local.Identifier.Text,
                AccessorDeclarationSyntax accessor => accessor.Keyword.Text,
                PropertyDeclarationSyntax { ExpressionBody: not null } property => property.Identifier.Text,
                IndexerDeclarationSyntax { ExpressionBody: not null } => "this",
                _ => null,
            };
            if (name is null) continue;
            int start = node.ChildNodesAndTokens().First(child => !child.IsKind(SyntaxKind.AttributeList)).SpanStart;
            yield return (string.Join('.', Owners(node).Append(name)), Line(node.Span.End) - Line(start) + 1);
        }

        int Line(int position) => root.SyntaxTree.GetLineSpan(new(position, 0)).StartLinePosition.Line;
    }

    /// <summary>Names of what a body stands in, outermost first.</summary>
    private static IEnumerable<string> Owners(SyntaxNode node) => node.Ancestors().Reverse().Select(owner => owner switch
    {
        BaseTypeDeclarationSyntax type => type.Identifier.Text,
        MethodDeclarationSyntax method => method.Identifier.Text,
        ConstructorDeclarationSyntax constructor => constructor.Identifier.Text,
        PropertyDeclarationSyntax property => property.Identifier.Text,
        IndexerDeclarationSyntax => "this",
        LocalFunctionStatementSyntax local => local.Identifier.Text,
        _ => "",
    }).Where(name => name.Length > 0);

    /// <summary>Words of a text: what stands between spaces, lines of a table or a drawing included.</summary>
    public static int Words(string text) => text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries).Length;
}
